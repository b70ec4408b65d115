"""What each rank of full sharding holds of a weight: whole rows, as many as any other."""

import pytest

from mai.model.shapes import Parameter, Split
from mai.parallel.layout import Layout
from mai.plan.communication.sharing import own_elements
from mai.recipe import ParallelConfig

LAYOUT = Layout.of(ParallelConfig(tensor=2, data=4, expert=2, expert_tensor=2, sharding="full"), 8)


def parameter(*shape: int, split: Split, is_expert: bool = False) -> Parameter:
    return Parameter("decoder.layers.0.weight", shape, split, layer=0, is_expert=is_expert)


@pytest.mark.parametrize(
    ("shared", "rows", "columns"),
    [
        (parameter(10, 6, split=Split.NONE), 3, 6),
        (parameter(10, 6, split=Split.COLUMNS), 3, 3),
        (parameter(12, 6, split=Split.ROWS), 2, 6),
        (parameter(10, split=Split.NONE), 3, 1),
        # Of eight experts a rank of two has four, and shares their rows with one other.
        (parameter(8, 10, 6, split=Split.COLUMNS, is_expert=True), 20, 3),
        (parameter(8, 10, 6, split=Split.ROWS, is_expert=True), 10, 6),
        (parameter(8, 10, split=Split.NONE, is_expert=True), 20, 1),
    ],
)
def test_rows_are_dealt_out_and_padded(shared: Parameter, rows: int, columns: int) -> None:
    assert own_elements(shared, LAYOUT) == rows * columns
