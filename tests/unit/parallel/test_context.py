import pytest

from mai.parallel.context import order_of_all_parts, own_parts

CASES = [(16, 1), (16, 2), (48, 3), (64, 4), (4096, 16)]


@pytest.mark.parametrize(("length", "ranks"), CASES)
def test_all_ranks_together_hold_each_position_once(length: int, ranks: int) -> None:
    parts = [part for rank in range(ranks) for part in own_parts(length, rank=rank, ranks=ranks)]
    held = [position for part in parts for position in part]
    assert sorted(held) == list(range(length))


@pytest.mark.parametrize(("length", "ranks"), CASES)
def test_causal_attention_costs_every_rank_the_same(length: int, ranks: int) -> None:
    """A query at position p sees p + 1 keys."""
    costs = {
        sum(position + 1 for part in own_parts(length, rank=rank, ranks=ranks) for position in part)
        for rank in range(ranks)
    }
    assert len(costs) == 1


@pytest.mark.parametrize(("length", "ranks"), CASES)
def test_parts_laid_end_to_end_are_put_in_order(length: int, ranks: int) -> None:
    laid = [part for rank in range(ranks) for part in own_parts(length, rank=rank, ranks=ranks)]
    whole: list[range] = [range(0)] * len(laid)
    for place, part in zip(order_of_all_parts(ranks), laid, strict=True):
        whole[place] = part
    assert [position for part in whole for position in part] == list(range(length))
