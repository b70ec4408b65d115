"""`mai/kernels/fp8_blocks.py` in Triton.

Shapes: R rows, C columns. A program holds a tile of 128 x 128 in registers, and writes it as it lies and transposed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels import fp8_blocks
from mai.kernels.gpu.launch import cover

# Two programs fit a multiprocessor: one loads while the other computes.
NUM_WARPS = 8
BLOCK = tl.constexpr(fp8_blocks.BLOCK)
LARGEST = tl.constexpr(fp8_blocks.LARGEST)
INVERSE_OF_LARGEST = tl.constexpr(1 / fp8_blocks.LARGEST)
SMALLEST_AMAX = tl.constexpr(fp8_blocks.SMALLEST_AMAX)


@triton.jit
def rows_and_columns_kernel(x, out, scale, out_transposed, scale_transposed, R, C):
    tile_row, tile_column = tl.program_id(1), tl.program_id(0)
    row, column = tile_row * BLOCK + tl.arange(0, BLOCK), tile_column * BLOCK + tl.arange(0, BLOCK)
    where, inside = places(x, tile_row, tile_column, R, C)
    tile = tl.load(where, mask=inside, other=0).to(tl.float32)
    # The rows are done before the columns begin: both at once need registers for one program instead of two.
    row_scale, row_factor = scale_and_factor(tl.max(tl.abs(tile), axis=1))
    tl.store(scale + tile_column.to(tl.int64) * R + row, row_scale, mask=row < R)
    store_tile(out, tile * row_factor[:, None], tile_row, tile_column, R, C)
    column_scale, column_factor = scale_and_factor(tl.max(tl.abs(tile), axis=0))
    tl.store(scale_transposed + tile_row.to(tl.int64) * C + column, column_scale, mask=column < C)
    store_transposed(out_transposed, tile * column_factor[None, :], tile_row, tile_column, R, C)


@triton.jit
def blocks_kernel(x, out, scale, out_transposed, scale_transposed, R, C):
    tile_row, tile_column = tl.program_id(1), tl.program_id(0)
    where, inside = places(x, tile_row, tile_column, R, C)
    tile = tl.load(where, mask=inside, other=0).to(tl.float32)
    tile_scale, factor = scale_and_factor(tl.max(tl.abs(tile)))
    tl.store(scale + tile_row * tl.num_programs(0) + tile_column, tile_scale)
    tl.store(scale_transposed + tile_column * tl.num_programs(1) + tile_row, tile_scale)
    store_tile(out, tile * factor, tile_row, tile_column, R, C)
    store_transposed(out_transposed, tile * factor, tile_row, tile_column, R, C)


@triton.jit
def places(x, tile_row, tile_column, R, C):
    """Pointers to the elements of a tile of x [R, C], and which of them x has."""
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    # 64 bits for the tile, 32 within it.
    first = tile_row.to(tl.int64) * BLOCK * C + tile_column * BLOCK
    return x + first + row * C + column, (row < R - tile_row * BLOCK) & (column < C - tile_column * BLOCK)


@triton.jit
def scale_and_factor(amax):
    amax = tl.maximum(amax, SMALLEST_AMAX)
    # Rounded as torch rounds a quotient, so that the payload is torch's to the bit.
    return amax * INVERSE_OF_LARGEST, tl.div_rn(LARGEST, amax)


@triton.jit
def store_tile(out, tile, tile_row, tile_column, R, C):
    where, inside = places(out, tile_row, tile_column, R, C)
    tl.store(where, tile.to(out.dtype.element_ty), mask=inside)


@triton.jit
def store_transposed(out, tile, tile_row, tile_column, R, C):
    where, inside = places(out, tile_column, tile_row, C, R)
    # Through shared memory, in the format that has fewest bytes.
    tl.store(where, tl.trans(tile.to(out.dtype.element_ty)), mask=inside)


def rows_and_columns(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _launched(rows_and_columns_kernel, x, fp8_blocks.empty_rows_and_columns(x))


def blocks(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _launched(blocks_kernel, weight, fp8_blocks.empty_blocks(weight))


def _launched(
    kernel: Any, x: Tensor, outs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # `quantise_*` refuses others: of fp32, Triton 3.6 writes three eighths of a transposed tile wrongly on an H100, and
    # only of whole tiles.
    assert x.dtype == torch.bfloat16
    height, width = x.shape
    if x.numel():
        # Neighbours read on along a row.
        kernel[(cover(width, fp8_blocks.BLOCK), cover(height, fp8_blocks.BLOCK))](
            x.contiguous(), *outs, height, width, num_warps=NUM_WARPS
        )
    return outs
