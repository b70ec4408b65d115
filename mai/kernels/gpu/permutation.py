"""`mai/kernels/permutation.py` in Triton.

Shapes: T tokens, K picked experts of a token, N = T * K rows, H features, E experts.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover, rows

# 16 values a thread: two loads of 16 bytes in flight.
BLOCK, NUM_WARPS = 2048, 4
# Each is compared with all others of its block: one warp, whose threads load two of 8 bytes at once.
ENTRIES, ENTRY_WARPS = 64, 1


@triton.jit
def count_kernel(experts, counts, N, E, BLOCKS, ENTRIES: tl.constexpr, EXPERTS: tl.constexpr):
    block = tl.program_id(0)
    entry = block * ENTRIES + tl.arange(0, ENTRIES)
    expert = tl.load(experts + entry, mask=entry < N, other=0).to(tl.int32)
    column = tl.arange(0, EXPERTS)
    found = tl.histogram(expert, EXPERTS, mask=entry < N)
    # By expert and then by block, as their rows follow each other.
    tl.store(counts + column * BLOCKS + block, found, mask=column < E)


@triton.jit
def place_kernel(experts, counts, ends, row, N, BLOCKS, ENTRIES: tl.constexpr):
    block = tl.program_id(0)
    place = tl.arange(0, ENTRIES)
    entry = block * ENTRIES + place
    expert = tl.load(experts + entry, mask=entry < N, other=-1)
    is_before = (expert[None, :] == expert[:, None]) & (place[None, :] < place[:, None])
    chunk = expert * BLOCKS + block
    start = tl.load(ends + chunk, mask=entry < N) - tl.load(counts + chunk, mask=entry < N)
    tl.store(row + entry, start + tl.sum(is_before.to(tl.int32), axis=1), mask=entry < N)


@triton.jit
def spread_kernel(
    tokens, weights, rows, out, out_weights, H, BLOCKS, K: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    token = (tl.program_id(0) // BLOCKS).to(tl.int64)
    block = tl.program_id(0) % BLOCKS
    column = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(tokens + token * H + column, mask=column < H)
    for k in tl.static_range(K):
        row = tl.load(rows + token * K + k)
        tl.store(out + row * H + column, value, mask=column < H)
        if WEIGHTED:
            tl.store(out_weights + row, tl.load(weights + token * K + k), mask=block == 0)


@triton.jit
def sum_kernel(
    x, weights, rows, out, out_weights, H, BLOCKS, K: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    token = (tl.program_id(0) // BLOCKS).to(tl.int64)
    block = tl.program_id(0) % BLOCKS
    column = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in tl.static_range(K):
        row = tl.load(rows + token * K + k)
        total += tl.load(x + row * H + column, mask=column < H).to(tl.float32)
        if WEIGHTED:
            tl.store(out_weights + token * K + k, tl.load(weights + row), mask=block == 0)
    tl.store(out + token * H + column, total.to(out.dtype.element_ty), mask=column < H)


def expert_rows(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    experts = experts.contiguous()
    row = torch.empty_like(experts)
    blocks = cover(experts.numel(), ENTRIES)
    counts = experts.new_empty((num_experts, blocks), dtype=torch.int32)
    if experts.numel():
        # A histogram has a bin for each thread of a warp at least.
        bins = max(32, int(triton.next_power_of_2(num_experts)))
        count_kernel[(blocks,)](
            experts, counts, experts.numel(), num_experts, blocks, ENTRIES=ENTRIES, EXPERTS=bins, num_warps=ENTRY_WARPS
        )
        ends = counts.flatten().cumsum(0)
        place_kernel[(blocks,)](
            experts, counts, ends, row, experts.numel(), blocks, ENTRIES=ENTRIES, num_warps=ENTRY_WARPS
        )
    return row, counts.sum(dim=1)


def permute(tokens: Tensor, weights: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    out_weights = weights.new_empty(row.numel())
    return _moved(spread_kernel, tokens, row.numel(), weights.contiguous(), row, out_weights), out_weights


def permute_backward(gradient: Tensor, of_weights: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    out_weights = of_weights.new_empty(row.shape)
    return _moved(sum_kernel, gradient, row.size(0), of_weights.contiguous(), row, out_weights), out_weights


def unpermute(x: Tensor, row: Tensor) -> Tensor:
    return _moved(sum_kernel, x, row.size(0), None, row, None)


def unpermute_backward(gradient: Tensor, row: Tensor) -> Tensor:
    return _moved(spread_kernel, gradient, row.numel(), None, row, None)


def _moved(
    kernel: Any, x: Tensor, num_out: int, weights: Tensor | None, row: Tensor, out_weights: Tensor | None
) -> Tensor:
    """[num_out, H]: by programs that each take a block of one token's features."""
    flat, _, features = rows(x)
    out = x.new_empty((num_out, features))
    blocks = cover(features, BLOCK)
    if row.numel():
        kernel[(row.size(0) * blocks,)](
            flat,
            weights,
            row.contiguous(),
            out,
            out_weights,
            features,
            blocks,
            K=row.size(1),
            WEIGHTED=weights is not None,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return out
