"""The data order: every sequence once an epoch, from two integers."""

import numpy as np
import pytest

from mai.data.order import shuffled


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 16, 17, 64, 97, 100, 1000, 4096, 4097, 65_537])
@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_each_epoch_reads_every_sequence_once(number, epoch):
    found = shuffled(range(epoch * number, (epoch + 1) * number), number, seed=3)
    assert sorted(found) == list(range(number))


def test_seeds_and_epochs_give_different_orders():
    orders = {
        tuple(shuffled(range(epoch * 50, (epoch + 1) * 50), 50, seed=seed)) for seed in range(10) for epoch in range(10)
    }
    assert len(orders) == 100


def test_any_cutting_gives_the_same_order():
    whole = shuffled(range(250), 101, seed=1)
    singly = [shuffled([position], 101, seed=1)[0] for position in range(250)]
    backwards = shuffled(range(249, -1, -1), 101, seed=1)[::-1]
    assert whole.tolist() == singly == backwards.tolist()


def test_each_place_is_equally_likely_to_hold_each_sequence():
    number, draws = 5, 2000
    counts = np.zeros((number, number))
    for seed in range(draws):
        counts[np.arange(number), shuffled(range(number), number, seed=seed)] += 1
    expected = draws / number
    # 25 cells of standard deviation 18: five of 20 is a limit that an even shuffle does not reach.
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_neighbours_are_not_kept_together():
    found = shuffled(range(10_000), 10_000, seed=0)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert np.count_nonzero(np.abs(np.diff(found)) == 1) < 20


def test_a_corpus_of_trillions_needs_no_memory():
    number = 15 * 10**12 + 7
    found = shuffled([0, 1, number - 1, number, 5 * number + 3, 2**62], number, seed=2**63)
    assert ((found >= 0) & (found < number)).all()


def test_the_order_is_a_promise():
    """Changing it would change every run that is resumed."""
    assert shuffled(range(10), 10, seed=0).tolist() == [5, 9, 4, 0, 3, 6, 7, 2, 1, 8]
