"""Block-wise FP8 by hand: what a payload and its scale are, in either layout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.kernels import fp8_blocks


def test_the_largest_of_a_block_becomes_the_largest_of_the_format() -> None:
    x = torch.zeros(2, 256)
    x[0, 0], x[0, 1], x[0, 200], x[1, 5] = 3.5, -1.75, 448.0, -7.0
    payload, scale = fp8_blocks.reference_rows(x)
    assert torch.equal(scale[:, 0], torch.tensor([3.5 / 448, 7.0 / 448]))
    assert scale[0, 1] == 1
    assert payload.float()[0, [0, 1, 200]].tolist() == [448.0, -224.0, 448.0]
    assert payload.float()[1, 5] == -448.0


def test_scales_lie_as_scaled_mm_reads_them() -> None:
    payload, scale = fp8_blocks.reference_rows(torch.ones(5, 300))
    assert (payload.stride(), scale.shape, scale.stride()) == ((300, 1), (5, 3), (1, 5))


def test_a_column_s_block_is_128_tokens() -> None:
    x = torch.ones(256, 3, dtype=torch.bfloat16)
    x[128:, 1] = 4.0
    _, _, payload, scale = fp8_blocks.quantise_rows_and_columns(x)
    assert (payload.float() == 448.0).all()
    assert torch.equal(scale * 448, torch.tensor([[1.0, 1.0], [1.0, 4.0], [1.0, 1.0]]))


def test_a_weight_has_one_scale_for_128_by_128_and_its_transpose_has_the_same() -> None:
    weight = torch.ones(200, 300, dtype=torch.bfloat16)
    weight[150, 270] = -2.0
    payload, scale, transposed_payload, transposed_scale = fp8_blocks.quantise_blocks(weight)
    assert torch.equal(scale * 448, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]]))
    assert payload.float()[150, 270] == -448.0
    assert payload.float()[150, 299] == 224.0
    assert torch.equal(transposed_payload.float(), payload.float().t())
    assert torch.equal(transposed_scale, scale.t())


def test_zeros_stay_zeros_and_the_smallest_gradients_keep_their_precision() -> None:
    payload, scale = fp8_blocks.reference_rows(torch.zeros(1, 128))
    assert torch.equal(payload.float() * scale, torch.zeros(1, 128))
    tiny = torch.full((1, 128), 2.0**-100)
    payload, scale = fp8_blocks.reference_rows(tiny)
    assert torch.allclose(payload.float() * scale, tiny, rtol=1e-6, atol=0)


@pytest.mark.parametrize("quantise", [fp8_blocks.quantise_rows_and_columns, fp8_blocks.quantise_blocks])
def test_a_dtype_that_a_gpu_would_refuse_is_refused_by_name_everywhere(quantise: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TypeError, match=r"not from torch\.float32"):
        quantise(torch.ones(128, 128))
