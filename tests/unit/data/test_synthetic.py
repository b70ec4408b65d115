"""Synthetic tokens are a pure function of seed and position, and a model can learn them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mai.data.synthetic import synthetic_sequences

VOCAB_SIZE = 512
SEQUENCES = synthetic_sequences(VOCAB_SIZE, 64, 5)


def test_a_position_has_the_same_tokens_in_any_order_and_batch():
    whole = SEQUENCES.at(range(100))
    assert whole.shape == (100, 65)
    order = np.random.default_rng(0).permutation(100)
    assert (SEQUENCES.at(order) == whole[order]).all()
    for batch in (range(1), range(40, 44), [99, 7, 7]):
        assert (SEQUENCES.at(batch) == whole[list(batch)]).all()
    assert (synthetic_sequences(VOCAB_SIZE, 64, 5).at(range(100)) == whole).all()


def test_seeds_and_positions_have_their_own_tokens():
    rows = np.concatenate([synthetic_sequences(VOCAB_SIZE, 64, seed).at(range(50)) for seed in (0, 1, 2)])
    assert len(np.unique(rows, axis=0)) == 150


def test_a_longer_sequence_begins_like_a_shorter_one():
    assert (synthetic_sequences(VOCAB_SIZE, 128, 5).at([3])[:, :65] == SEQUENCES.at([3])).all()


def test_positions_never_end():
    assert SEQUENCES.at([2**62]).shape == (1, 65)


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 8, 9, 100, 257])
def test_tokens_are_int64_and_inside_the_vocabulary_which_occurs_whole(vocab_size):
    tokens = synthetic_sequences(vocab_size, 256, 0).at(range(200))
    assert tokens.dtype == np.int64
    assert np.unique(tokens).tolist() == list(range(vocab_size))


def test_the_tokens_are_recorded():
    """Certificates and curves of two machines compare only if this row never changes."""
    recorded = [84, 314, 209, 310, 197, 262, 343, 117, 366, 158, 477, 276, 503]
    assert synthetic_sequences(VOCAB_SIZE, 12, 1).at([1000]).tolist() == [recorded]


def test_counting_a_few_batches_predicts_other_sequences_of_any_seed():
    """The loss of tables of counts, nats: far below a guess by who is common, which is below a blind guess."""
    seen = SEQUENCES.at(range(2000))
    unseen = synthetic_sequences(VOCAB_SIZE, 64, 6).at(range(200))
    unigram = np.bincount(seen.ravel(), minlength=VOCAB_SIZE) + 1.0
    bigram = np.zeros((VOCAB_SIZE, VOCAB_SIZE)) + 10 * unigram / unigram.sum()
    np.add.at(bigram, (seen[:, :-1], seen[:, 1:]), 1.0)

    blind = np.log(VOCAB_SIZE)
    assert loss(np.broadcast_to(unigram, bigram.shape), unseen) < 0.85 * blind
    assert loss(bigram, unseen) < 0.4 * blind


def loss(counts_of_pairs: NDArray[np.float64], tokens: NDArray[np.int64]) -> float:
    chances = counts_of_pairs / counts_of_pairs.sum(axis=1, keepdims=True)
    return float(-np.log(chances[tokens[:, :-1], tokens[:, 1:]]).mean())
