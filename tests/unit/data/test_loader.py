"""Sequences by position: the same for any number of ranks, and never outside of the text."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mai.data.index import TokenShards
from mai.data.loader import Sequences, batch_positions, held_out_sequences, open_dataset, training_sequences
from mai.data.prepare import prepare
from mai.errors import DataError
from mai.recipe.recipe import Recipe


def counting(num_tokens: int) -> TokenShards:
    """A stream in which token k is k, in shards of 10."""
    stream = np.arange(num_tokens, dtype=np.uint16)
    return TokenShards([stream[start : start + 10] for start in range(0, num_tokens, 10)], num_ids=num_tokens, name="")


@pytest.mark.parametrize("num_tokens", [9, 16, 17, 18, 24, 25, 1001])
def test_an_epoch_has_every_token_but_the_first_as_target_once(num_tokens):
    sequences = Sequences(counting(num_tokens), sequence_length=8, seed=5)
    epoch = sequences.at(range(sequences.num_sequences))
    assert epoch.shape == ((num_tokens - 1) // 8, 9)
    assert (np.diff(epoch, axis=1) == 1).all()
    assert sorted(epoch[:, 1:].ravel()) == list(range(1, sequences.num_sequences * 8 + 1))


def test_the_ranks_of_a_step_read_the_batch_between_them():
    for data_ranks in (1, 2, 3, 4, 6, 12):
        ranges = [
            batch_positions(24, batch_sequences=12, data_rank=rank, data_ranks=data_ranks) for rank in range(data_ranks)
        ]
        assert [position for share in ranges for position in share] == list(range(24, 36))


def test_a_run_reads_the_same_sequences_whatever_the_ranks_and_wherever_it_resumes():
    sequences = Sequences(counting(1001), sequence_length=8, seed=5)
    whole = sequences.at(range(300))
    for data_ranks in (1, 2, 4):
        steps = [
            sequences.at(batch_positions(position, batch_sequences=12, data_rank=rank, data_ranks=data_ranks))
            for position in range(0, 300, 12)
            for rank in range(data_ranks)
        ]
        assert (np.concatenate(steps) == whole).all()


def test_seeds_read_in_different_orders():
    first, second = (Sequences(counting(1001), sequence_length=8, seed=seed).at(range(50)) for seed in (1, 2))
    assert (first != second).any()


def test_batches_are_int64_and_ready_for_an_embedding():
    assert Sequences(counting(100), sequence_length=8, seed=0).at([0]).dtype == np.int64


def test_training_and_held_out_sequences_come_from_the_recipe(make_recipe):
    recipe = make_recipe(sequence_length=16)
    prepare(recipe, workers=1)
    dataset = open_dataset(recipe)
    training, held_out = training_sequences(dataset, recipe), held_out_sequences(dataset, recipe)
    for sequences, name in ((training, "train"), (held_out, "held_out")):
        assert sequences.num_sequences == (dataset.manifest.splits[name].num_tokens - 1) // 16
    other_seed = replace(recipe, train=replace(recipe.train, seed=7))
    assert (training_sequences(dataset, other_seed).at(range(20)) != training.at(range(20))).any()
    assert (held_out_sequences(dataset, other_seed).at(range(4)) == held_out.at(range(4))).all()


def test_the_bytes_of_the_held_out_targets_are_exact(make_recipe):
    recipe = make_recipe(sequence_length=16)
    dataset = prepare(recipe, workers=1).dataset
    held_out = held_out_sequences(dataset, recipe)
    targets = held_out.at(range(held_out.num_sequences))[:, 1:]
    text = dataset.token_text()
    decoded = text.decode(targets.ravel())
    assert text.num_bytes(targets) == np.count_nonzero(decoded)
    assert np.count_nonzero(decoded == 0) == np.count_nonzero(targets == dataset.manifest.end_token) > 0


def enough(recipe: Recipe) -> tuple[Sequences, Sequences]:
    dataset = prepare(recipe, workers=1).dataset
    return training_sequences(dataset, recipe), held_out_sequences(dataset, recipe)


def test_a_corpus_smaller_than_one_batch_names_the_numbers(make_recipe: Callable[..., Recipe]):
    recipe = make_recipe(sequence_length=64)
    recipe = replace(recipe, train=replace(recipe.train, batch_tokens=64 * 1000))
    with pytest.raises(
        DataError, match=r"holds \d+ sequences of data.sequence_length=64, fewer than one batch .*64000 is 1000\)"
    ):
        enough(recipe)


def test_a_corpus_smaller_than_one_sequence_names_the_numbers(make_recipe: Callable[..., Recipe]):
    recipe = make_recipe(sequence_length=100_000)
    recipe = replace(recipe, train=replace(recipe.train, batch_tokens=100_000))
    with pytest.raises(DataError, match=r"holds 0 sequences of data.sequence_length=100000"):
        enough(recipe)


def test_too_little_held_out_text_names_the_numbers(make_recipe: Callable[..., Recipe]):
    recipe = make_recipe(sequence_length=16)
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, sequences=10_000))
    with pytest.raises(DataError, match=r"held-out text holds \d+ sequences .*evaluate.sequences=10000; lower it"):
        enough(recipe)


def test_loading_needs_neither_torch_nor_tokenizers_nor_rich():
    script = (
        "import json, sys, mai.data.loader; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, check=True, text=True
    )
    assert not {"torch", "tokenizers", "rich", "multiprocessing"} & set(json.loads(found.stdout))
