"""Weights, segments and positions for the batches of a trial: drawn for each sequence by its position in the data, so
that every layout draws the same.

Shapes: B sequences of this data-parallel rank, S tokens of a sequence.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mai.batch import Batch

_SEGMENTS = 5
"""How many segments a row has, about."""
_NOTHING_COUNTS_ONE_IN = 4
"""Sequences of which no target counts, as a micro-batch that is filled up has them."""


def annotated(batch: Batch, positions: Sequence[int], *, draw: int, has_segments: bool) -> Batch:
    """The batch of the sequences at these positions, with weights of 0, 1 and fractions; with `has_segments` also
    packed: in segments of all lengths, each with positions of its own, that begin at 0."""
    length = batch.tokens_BS.size(1)
    drawn = [_sequence(np.random.default_rng((draw, position)), length, position) for position in positions]
    weights, segments, places = (np.stack(each) for each in zip(*drawn, strict=True))
    weighted = replace(batch, weights_BS=_tensor(weights.astype(np.float32)))
    return replace(weighted, segments_BS=_tensor(segments), positions_BS=_tensor(places)) if has_segments else weighted


def _sequence(
    generator: np.random.Generator, length: int, position: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Weights, segments and positions of one row."""
    place = np.arange(length)
    kinds = generator.integers(3, size=length)
    weights = np.where(kinds < 2, kinds, generator.random(length))
    begins = (generator.random(length) < _SEGMENTS / length) | (place == 0)
    if position % _NOTHING_COUNTS_ONE_IN == _NOTHING_COUNTS_ONE_IN - 1:
        weights = np.zeros(length)
    return weights, np.cumsum(begins), place - np.maximum.accumulate(np.where(begins, place, 0))


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values)
