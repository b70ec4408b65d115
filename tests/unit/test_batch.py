"""What a batch says of its tokens, by hand."""

from dataclasses import replace

import pytest
import torch

from mai.batch import Batch

TOKENS = torch.arange(12).view(2, 6)
SEGMENTS = torch.tensor([[7, 7, 7, 3, 3, 7], [0, 0, 0, 0, 0, 0]])
WEIGHTS = torch.tensor([[1.0, 0.5, 0.0, 2.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.25]])
BATCH = Batch(TOKENS, TOKENS + 1, weights_BS=WEIGHTS, segments_BS=SEGMENTS)


def test_a_target_counts_unless_its_weight_is_0() -> None:
    assert int(Batch(TOKENS, TOKENS).num_counted()) == 12
    assert int(BATCH.num_counted()) == 6


def test_segments_are_runs_numbered_by_where_they_begin_and_a_number_may_come_again() -> None:
    numbered = BATCH.with_numbered_segments()
    assert numbered.segments_BS is not None
    assert numbered.segments_BS.tolist() == [[0, 0, 0, 3, 3, 5], [0] * 6]
    again = numbered.with_numbered_segments()
    assert again.segments_BS is not None
    assert torch.equal(again.segments_BS, numbered.segments_BS)


def test_the_weight_of_a_further_target_is_its_own_and_0_beyond_a_border_or_the_row() -> None:
    further = BATCH.with_numbered_segments().for_depths(2).further_weights_BSD
    assert further is not None
    assert further[0].T.tolist() == [[0.5, 0.0, 0.0, -1.0, 0.0, 0.0], [0.0] * 6]
    assert further[1].T.tolist() == [[0.0, 0.0, 0.0, 0.0, 0.25, 0.0], [0.0, 0.0, 0.0, 0.25, 0.0, 0.0]]


def test_without_weights_every_further_target_of_the_row_counts_1() -> None:
    further = Batch(TOKENS, TOKENS).for_depths(7).further_weights_BSD
    assert further is not None
    assert further[0].sum(dim=0).tolist() == [5, 4, 3, 2, 1, 0, 0]


def test_micro_batches_and_columns_take_along_all_that_there_is() -> None:
    second = BATCH.with_numbered_segments().for_depths(1).split(1)[1]
    right = second.each(lambda x: x[:, 3:])
    assert right.tokens_BS.tolist() == [[9, 10, 11]]
    assert right.weights_BS is not None
    assert right.weights_BS.tolist() == [[0, 0, 0.25]]
    assert right.further_weights_BSD is not None
    assert right.further_weights_BSD.shape == (1, 3, 1)
    assert right.positions_BS is None


@pytest.mark.parametrize("field", ["weights_BS", "segments_BS", "positions_BS"])
def test_a_tensor_of_another_shape_or_dtype_is_refused_by_name(field: str) -> None:
    right = WEIGHTS if field == "weights_BS" else SEGMENTS
    for wrong in (right[:, 1:], right.half()):
        with pytest.raises(ValueError, match=f"Batch.{field}: "):
            replace(BATCH, **{field: wrong})
