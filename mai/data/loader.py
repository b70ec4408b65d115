"""Sequences of tokens by position: what a rank reads at a step follows from two integers and its place.

The token stream is cut into windows of `sequence_length`; each window comes with the token after its last, so inputs
are [:, :-1] and targets [:, 1:], and every token but the stream's first is a target once an epoch.

    position --order.py--> window --index.py--> tokens        resume = the position
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mai.data.index import Dataset, TokenShards
from mai.data.order import shuffled
from mai.errors import DataError
from mai.recipe.recipe import Recipe

# Held-out windows are drawn in one fixed order, so the first n are the same for every run and a fair sample.
_HELD_OUT_SEED = 0


class Sequences:
    """Windows of a token stream, in an order drawn by `seed`; position p is the p-th sequence since the start."""

    def __init__(self, shards: TokenShards, *, sequence_length: int, seed: int) -> None:
        self._shards = shards
        self._length = sequence_length
        self._seed = seed

    @property
    def num_sequences(self) -> int:
        """Sequences of one epoch."""
        return max(0, self._shards.num_tokens - 1) // self._length

    def at(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """[len(positions), sequence_length + 1] tokens."""
        windows = shuffled(positions, self.num_sequences, seed=self._seed)
        rows = [self._shards.tokens(int(window) * self._length, self._length + 1) for window in windows]
        return np.stack(rows)


def batch_positions(position: int, *, batch_sequences: int, data_rank: int, data_ranks: int) -> range:
    """The positions that this data-parallel rank reads in the step that begins at `position`: a slice of the batch."""
    assert batch_sequences % data_ranks == 0, f"{data_ranks} ranks do not share {batch_sequences} sequences evenly"
    share = batch_sequences // data_ranks
    start = position + data_rank * share
    return range(start, start + share)


def training_sequences(dataset: Dataset, recipe: Recipe) -> Sequences:
    """What this recipe trains on; DataError when one batch would need the whole corpus and more."""
    length = recipe.data.sequence_length
    sequences = Sequences(dataset.shards("train"), sequence_length=length, seed=recipe.train.seed)
    if sequences.num_sequences < recipe.batch_sequences:
        raise DataError(
            f"the training text holds {sequences.num_sequences} sequences of data.sequence_length={length}, fewer than "
            f"one batch (train.batch_tokens={recipe.train.batch_tokens} is {recipe.batch_sequences}); "
            "add documents, or lower train.batch_tokens or data.sequence_length"
        )
    return sequences


def held_out_sequences(dataset: Dataset, recipe: Recipe) -> Sequences:
    """What this recipe is judged on: positions 0 to evaluate.sequences - 1, the same for every run."""
    length = recipe.data.sequence_length
    sequences = Sequences(dataset.shards("held_out"), sequence_length=length, seed=_HELD_OUT_SEED)
    if sequences.num_sequences < recipe.evaluate.sequences:
        raise DataError(
            f"the held-out text holds {sequences.num_sequences} sequences of data.sequence_length={length}, fewer than "
            f"evaluate.sequences={recipe.evaluate.sequences}; lower it, or raise "
            f"data.held_out_fraction={recipe.data.held_out_fraction:g}"
        )
    return sequences


def open_dataset(recipe: Recipe) -> Dataset:
    """The prepared folder of this recipe; DataError when it is not prepared, damaged, or another recipe's."""
    dataset = Dataset.open(Path(recipe.data.folder))
    dataset.check_belongs(recipe)
    return dataset
