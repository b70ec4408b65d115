"""Block-wise FP8 (e4m3) of DeepSeek-V3 (arXiv 2412.19437, section 3.3): a number is its payload times the fp32 scale of
its block; 1 x 128 for activations and gradients, 128 x 128 for weights.

A matrix product reads blocks along the dim that it sums over. The output of a layer sums over features, the gradient of
its weight over tokens: both layouts come from one reading. Nothing trains in FP8 yet; the products are to come.

Shapes: T tokens, H features, O and I outputs and inputs of a matrix; R rows, C columns.
"""

import torch
from torch import Tensor

from mai.kernels.operators import operator

BLOCK = 128
LARGEST = 448.0
"""The largest number of e4m3."""
SMALLEST_AMAX = 2.0**-100
"""A block of zeros counts as this: its scale and what multiplies it are finite. bf16 gradients are far larger."""


def reference_rows(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of 1 x 128: payload [R, C] and scales [R, C / 128], rounded up. The last block may be short."""
    blocks_RNB = _padded(x_RC.float(), dim=1).unflatten(1, (-1, BLOCK))
    amax_RN = blocks_RNB.abs().amax(dim=-1)
    scale_RN, factor_RN = _scale_and_factor(amax_RN)
    payload_RC = (blocks_RNB * factor_RN[..., None]).flatten(1)[:, : x_RC.size(1)]
    # Scales lie column by column, as torch.nn.functional.scaled_mm wants those of 1 x 128.
    return payload_RC.to(torch.float8_e4m3fn).contiguous(), scale_RN.t().contiguous().t()


def reference_rows_and_columns(x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference_rows` of x, and of its transpose."""
    return *reference_rows(x_TH), *reference_rows(x_TH.t())


def quantise_rows_and_columns(x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference_rows_and_columns` of bf16 in one reading: 4.06 bytes an element. Payload [T, H], scales [T, H / 128],
    then those of the transpose, [H, T] and [H, T / 128]. Raises TypeError for another dtype."""
    _check_dtype(x_TH)
    return _rows_and_columns(x_TH)  # type: ignore[no-any-return]


def reference_blocks(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blocks of 128 x 128: payload [O, I] and scales [O / 128, I / 128], rounded up; and the transpose of both."""
    padded = _padded(_padded(weight_OI.float(), dim=0), dim=1)
    blocks_PBNB = padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scale_PN, factor_PN = _scale_and_factor(blocks_PBNB.abs().amax(dim=(1, 3)))
    scaled = (blocks_PBNB * factor_PN[:, None, :, None]).flatten(2).flatten(0, 1)
    payload_OI = scaled[: weight_OI.size(0), : weight_OI.size(1)].to(torch.float8_e4m3fn)
    return payload_OI.contiguous(), scale_PN, payload_OI.t().contiguous(), scale_PN.t().contiguous()


def quantise_blocks(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference_blocks` of bf16 in one reading. Raises TypeError for another dtype."""
    _check_dtype(weight_OI)
    return _blocks(weight_OI)  # type: ignore[no-any-return]


def num_blocks(length: int) -> int:
    """That cover the length."""
    return -(-length // BLOCK)


def _check_dtype(x: Tensor) -> None:
    if x.dtype != torch.bfloat16:
        raise TypeError(f"FP8 blocks are quantised from torch.bfloat16, not from {x.dtype}; use `reference_*` for it")


def _padded(x: Tensor, *, dim: int) -> Tensor:
    missing = num_blocks(x.size(dim)) * BLOCK - x.size(dim)
    return torch.nn.functional.pad(x, (0, missing) if dim == 1 else (0, 0, 0, missing))


def _scale_and_factor(amax: Tensor) -> tuple[Tensor, Tensor]:
    """What a payload is multiplied by, and a number to become one."""
    amax = amax.clamp(min=SMALLEST_AMAX)
    # `LARGEST / amax` would be torch's reciprocal times a number: rounded twice.
    return amax * (1 / LARGEST), torch.full_like(amax, LARGEST) / amax


def _empty_payload(x: Tensor, rows: int, columns: int) -> Tensor:
    return x.new_empty((rows, columns), dtype=torch.float8_e4m3fn)


def empty_rows_and_columns(x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `quantise_rows_and_columns` returns, not yet written."""
    tokens, features = x_TH.shape
    return (
        _empty_payload(x_TH, tokens, features),
        x_TH.new_empty((num_blocks(features), tokens), dtype=torch.float32).t(),
        _empty_payload(x_TH, features, tokens),
        x_TH.new_empty((num_blocks(tokens), features), dtype=torch.float32).t(),
    )


def empty_blocks(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `quantise_blocks` returns, not yet written."""
    outputs, inputs = weight_OI.shape
    return (
        _empty_payload(weight_OI, outputs, inputs),
        weight_OI.new_empty((num_blocks(outputs), num_blocks(inputs)), dtype=torch.float32),
        _empty_payload(weight_OI, inputs, outputs),
        weight_OI.new_empty((num_blocks(inputs), num_blocks(outputs)), dtype=torch.float32),
    )


_rows_and_columns = operator(
    "fp8_rows_and_columns(Tensor x) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=reference_rows_and_columns,
    cuda="fp8_blocks.rows_and_columns",
    fake=empty_rows_and_columns,
)
_blocks = operator(
    "fp8_blocks(Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=reference_blocks,
    cuda="fp8_blocks.blocks",
    fake=empty_blocks,
)
