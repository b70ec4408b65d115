"""`mai/kernels/cross_entropy.py` in Triton.

Shapes: T tokens, V this rank's entries of the vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.cross_entropy import combine
from mai.kernels.cuda import library
from mai.kernels.gpu.launch import cover

# The fastest of six on an H100 at 128,256 entries.
BLOCK, NUM_WARPS = 2048, 4


@triton.jit
def statistics_kernel(logits, targets, out, T, V, stride, first_entry, BLOCK: tl.constexpr):
    # One reading: each lane keeps the largest logit that it met, and its sum relative to that; they meet at the end.
    row = tl.program_id(0).to(tl.int64)
    largest = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, V, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * stride + column, mask=column < V, other=float("-inf")).to(tl.float32)
        now_largest = tl.maximum(largest, value)
        # A lane that met nothing yet would subtract -inf from -inf.
        base = tl.where(now_largest == float("-inf"), 0.0, now_largest)
        total = total * tl.exp(largest - base) + tl.exp(value - base)
        largest = now_largest
    whole = tl.max(largest)
    tl.store(out + row, whole)
    tl.store(out + T + row, tl.sum(total * tl.exp(largest - whole)))
    entry = tl.load(targets + row) - first_entry
    is_here = (entry >= 0) & (entry < V)
    target = tl.load(logits + row * stride + entry, mask=is_here, other=0).to(tl.float32)
    tl.store(out + 2 * T + row, target)


@triton.jit
def gradient_kernel(logits, targets, log_sum, gradient, V, stride, first_entry, BLOCKS, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    place = logits + row * stride + column
    value = tl.load(place, mask=column < V).to(tl.float32)
    entry = tl.load(targets + row) - first_entry
    share = tl.exp(value - tl.load(log_sum + row)) - tl.where(column == entry, 1.0, 0.0)
    tl.store(place, (share * tl.load(gradient + row)).to(logits.dtype.element_ty), mask=column < V)


@triton.jit
def scale_rows_kernel(x, factor, V, stride, BLOCK: tl.constexpr):
    # A row to each program: with a factor of one it ends at once.
    row = tl.program_id(0).to(tl.int64)
    by = tl.load(factor + row)
    if by != 1.0:
        for start in range(0, V, BLOCK):
            column = start + tl.arange(0, BLOCK)
            place = x + row * stride + column
            value = tl.load(place, mask=column < V).to(tl.float32) * by
            tl.store(place, value.to(x.dtype.element_ty), mask=column < V)


def loss_and_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.is_contiguous() and library.takes_cross_entropy(logits.dtype, logits.size(1)):
        losses = logits.new_empty(logits.size(0), dtype=torch.float32)
        torch.ops.mai_cuda.cross_entropy(logits, targets, losses)
        return losses
    log_sum, target = combine(statistics(logits, targets, 0)[None])
    write_gradient(logits, targets, log_sum, torch.ones_like(log_sum), 0)
    return log_sum - target


def scale_rows(x: Tensor, factor: Tensor) -> None:
    assert x.stride(1) == 1
    if x.size(0):
        scale_rows_kernel[(x.size(0),)](x, factor, x.size(1), x.stride(0), BLOCK=BLOCK, num_warps=NUM_WARPS)


def statistics(logits: Tensor, targets: Tensor, first_entry: int) -> Tensor:
    assert logits.stride(1) == 1
    tokens, entries = logits.shape
    out = logits.new_empty((3, tokens), dtype=torch.float32)
    if tokens:
        statistics_kernel[(tokens,)](
            logits, targets, out, tokens, entries, logits.stride(0), first_entry, BLOCK=BLOCK, num_warps=NUM_WARPS
        )
    return out


def write_gradient(logits: Tensor, targets: Tensor, log_sum: Tensor, gradient: Tensor, first_entry: int) -> None:
    assert logits.stride(1) == 1
    tokens, entries = logits.shape
    blocks = cover(entries, BLOCK)
    if tokens:
        gradient_kernel[(tokens * blocks,)](
            logits,
            targets,
            log_sum,
            gradient,
            entries,
            logits.stride(0),
            first_entry,
            blocks,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
