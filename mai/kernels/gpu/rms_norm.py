"""`mai/kernels/rms_norm.py` in Triton.

Shapes: N rows, H features. A program holds a whole row in registers; backward, it takes many rows, so that its share of
the weight's gradient stays in registers too. There the longest rows go through tile by tile.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.column_sums import column_sums
from mai.kernels.gpu.launch import num_multiprocessors, rows

# Longer rows leave no shared memory to load the next ones into.
LONGEST_ROW_LOADED_AHEAD = 8192
# Backward: of longer ones, a share of the weight's gradient is more than the registers that a row leaves.
LONGEST_ROW_IN_REGISTERS = 16384
TILE, TILE_WARPS = 4096, 16
# Of all programs on a multiprocessor, backward: more only write more parts of the weight's gradient.
FEATURES_PER_MULTIPROCESSOR = 4096


@triton.jit
def forward_kernel(x, residual, weight, out, total, scale, H, epsilon, OF_SUM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < H
    value = tl.load(x + row * H + column, mask=inside, other=0).to(tl.float32)
    if OF_SUM:
        value += tl.load(residual + row * H + column, mask=inside, other=0).to(tl.float32)
        # Normalises what the residual stream will hold, rounding included, so that backward sees the same numbers.
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * H + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    row_scale = tl.rsqrt(tl.sum(value * value) / H + epsilon)
    tl.store(scale + row, row_scale)
    factor = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + row * H + column, (value * row_scale * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    x,
    weight,
    scale,
    gradient,
    of_total,
    of_x,
    of_weight,
    N,
    H,
    OF_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    column = tl.arange(0, BLOCK)
    inside = column < H
    part = tl.zeros((BLOCK,), dtype=tl.float32)
    first = tl.program_id(0)
    # While a row is summed, the next ones are on their way.
    for row in tl.range(first, N, tl.num_programs(0), num_stages=STAGES):
        place = tl.cast(row, tl.int64) * H + column
        row_scale = tl.load(scale + row)
        normal = tl.load(x + place, mask=inside, other=0).to(tl.float32) * row_scale
        above = tl.load(gradient + place, mask=inside, other=0).to(tl.float32)
        part += above * normal
        # From L1 each time: kept in registers, it would spill others of a long row.
        of_normal = above * tl.load(weight + column, mask=inside, other=0).to(tl.float32)
        result = row_scale * (of_normal - normal * (tl.sum(of_normal * normal) / H))
        if OF_SUM:
            result += tl.load(of_total + place, mask=inside, other=0).to(tl.float32)
        tl.store(of_x + place, result.to(of_x.dtype.element_ty), mask=inside)
    tl.store(of_weight + first.to(tl.int64) * H + column, part, mask=inside)


@triton.jit
def tiled_backward_kernel(
    x,
    weight,
    scale,
    gradient,
    of_total,
    of_x,
    of_weight,
    N,
    H,
    OF_SUM: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    first = tl.program_id(0)
    parts = of_weight + first.to(tl.int64) * H
    for row in tl.range(first, N, tl.num_programs(0)):
        start, row_scale = tl.cast(row, tl.int64) * H, tl.load(scale + row)
        products = tl.zeros((BLOCK,), dtype=tl.float32)
        for tile in tl.range(0, H, BLOCK, num_stages=STAGES):
            column = tile + tl.arange(0, BLOCK)
            normal, _, of_normal = _load_tile(x, gradient, weight, start, column, H, row_scale)
            products += of_normal * normal
        # Threads wait for each other in this sum, so each sees what others added to the parts for the row before.
        mean = tl.sum(products) / H
        # Once more, from L2: of 18,432 features all programs' rows and parts take 29 MB of its 50 on an H100.
        for tile in tl.range(0, H, BLOCK, num_stages=STAGES):
            column = tile + tl.arange(0, BLOCK)
            inside = column < H
            normal, above, of_normal = _load_tile(x, gradient, weight, start, column, H, row_scale)
            part = tl.load(parts + column, mask=inside & (row > first), other=0)
            tl.store(parts + column, part + above * normal, mask=inside)
            result = row_scale * (of_normal - normal * mean)
            if OF_SUM:
                result += tl.load(of_total + start + column, mask=inside, other=0).to(tl.float32)
            tl.store(of_x + start + column, result.to(of_x.dtype.element_ty), mask=inside)


@triton.jit
def _load_tile(x, gradient, weight, start, column, H, row_scale):
    inside = column < H
    normal = tl.load(x + start + column, mask=inside, other=0).to(tl.float32) * row_scale
    above = tl.load(gradient + start + column, mask=inside, other=0).to(tl.float32)
    return normal, above, above * tl.load(weight + column, mask=inside, other=0).to(tl.float32)


def shape_of_launch(features: int) -> tuple[int, int]:
    """(features of a block, warps): 16 values a thread, at most 32 warps."""
    block = int(triton.next_power_of_2(features))
    return block, min(32, max(1, block // 512))


def backward_launch(features: int) -> tuple[Any, int, int, int]:
    """(kernel, features of a block, warps, blocks that a program holds or loads at once): the fastest on an H100 at
    4,096, 8,192 and 16,384 features; tiles are not measured."""
    if features > LONGEST_ROW_IN_REGISTERS:
        return tiled_backward_kernel, TILE, TILE_WARPS, 3
    block, warps = shape_of_launch(features)
    stages = 3 if block <= LONGEST_ROW_LOADED_AHEAD else 1
    return backward_kernel, block, min(8 if stages > 1 else 16, warps), stages


def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    out, _, scale = _forward(x, None, weight, epsilon)
    return out, scale


def forward_of_sum(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    out, total, scale = _forward(x, residual, weight, epsilon)
    assert total is not None
    return out, total, scale


def _forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    flat, count, features = rows(x)
    other = None if residual is None else rows(residual)[0]
    out, scale = x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.float32)
    total = None if residual is None else x.new_empty(x.shape)
    block, warps = shape_of_launch(features)
    if count:
        forward_kernel[(count,)](
            flat,
            other,
            weight,
            out,
            total,
            scale,
            features,
            epsilon,
            OF_SUM=residual is not None,
            BLOCK=block,
            num_warps=warps,
        )
    return out, total, scale


def backward(
    x: Tensor, weight: Tensor, scale: Tensor, gradient: Tensor, of_total: Tensor | None
) -> tuple[Tensor, Tensor]:
    flat, count, features = rows(x)
    above, stream = rows(gradient)[0], None if of_total is None else rows(of_total)[0]
    kernel, block, warps, stages = backward_launch(features)
    programs = min(count, num_multiprocessors(x.device) * max(1, FEATURES_PER_MULTIPROCESSOR // block))
    of_x, parts = x.new_empty(x.shape), weight.new_empty((programs, features), dtype=torch.float32)
    if count:
        kernel[(programs,)](
            flat,
            weight,
            scale,
            above,
            stream,
            of_x,
            parts,
            count,
            features,
            OF_SUM=of_total is not None,
            BLOCK=block,
            STAGES=stages,
            num_warps=warps,
        )
    return of_x, column_sums(parts, weight.dtype)
