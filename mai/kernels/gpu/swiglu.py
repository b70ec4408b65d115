"""`mai/kernels/swiglu.py` in Triton.

Shapes: T tokens, F features. A program computes a block of one token's features.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover, rows

# 16 values a thread: two loads of 16 bytes of each input in flight.
BLOCK, NUM_WARPS = 2048, 4


@triton.jit
def forward_kernel(gate_and_up, weight, out, F, BLOCKS, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    gate = tl.load(gate_and_up + row * 2 * F + column, mask=inside).to(tl.float32)
    up = tl.load(gate_and_up + row * 2 * F + F + column, mask=inside).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    if WEIGHTED:
        result *= tl.load(weight + row)
    tl.store(out + row * F + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(gate_and_up, gradient, of_both, F, BLOCKS, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    gate = tl.load(gate_and_up + row * 2 * F + column, mask=inside).to(tl.float32)
    up = tl.load(gate_and_up + row * 2 * F + F + column, mask=inside).to(tl.float32)
    above = tl.load(gradient + row * F + column, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    of_gate = above * up * sigmoid * (1 + gate * (1 - sigmoid))
    of_up = above * gate * sigmoid
    tl.store(of_both + row * 2 * F + column, of_gate.to(of_both.dtype.element_ty), mask=inside)
    tl.store(of_both + row * 2 * F + F + column, of_up.to(of_both.dtype.element_ty), mask=inside)


@triton.jit
def weighted_backward_kernel(gate_and_up, weight, gradient, of_both, of_weight, F, BLOCK: tl.constexpr):
    # A whole token: the gradient of its weight is a sum over all its features.
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(weight + row)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, F, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < F
        gate = tl.load(gate_and_up + row * 2 * F + column, mask=inside, other=0).to(tl.float32)
        up = tl.load(gate_and_up + row * 2 * F + F + column, mask=inside, other=0).to(tl.float32)
        above = tl.load(gradient + row * F + column, mask=inside, other=0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        total += above * gate * sigmoid * up
        of_gate = scale * above * up * sigmoid * (1 + gate * (1 - sigmoid))
        of_up = scale * above * gate * sigmoid
        tl.store(of_both + row * 2 * F + column, of_gate.to(of_both.dtype.element_ty), mask=inside)
        tl.store(of_both + row * 2 * F + F + column, of_up.to(of_both.dtype.element_ty), mask=inside)
    tl.store(of_weight + row, tl.sum(total))


def forward(gate_and_up: Tensor) -> Tensor:
    return _forward(gate_and_up, None)


def weighted_forward(gate_and_up: Tensor, weight: Tensor) -> Tensor:
    return _forward(gate_and_up, weight.contiguous())


def _forward(gate_and_up: Tensor, weight: Tensor | None) -> Tensor:
    flat, tokens, width = rows(gate_and_up)
    out = gate_and_up.new_empty((*gate_and_up.shape[:-1], width // 2))
    blocks = cover(width // 2, BLOCK)
    if tokens:
        forward_kernel[(tokens * blocks,)](
            flat, weight, out, width // 2, blocks, WEIGHTED=weight is not None, BLOCK=BLOCK, num_warps=NUM_WARPS
        )
    return out


def backward(gate_and_up: Tensor, gradient: Tensor) -> Tensor:
    flat, tokens, width = rows(gate_and_up)
    above, _, _ = rows(gradient)
    out = gate_and_up.new_empty(gate_and_up.shape)
    blocks = cover(width // 2, BLOCK)
    if tokens:
        backward_kernel[(tokens * blocks,)](flat, above, out, width // 2, blocks, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out


def weighted_backward(gate_and_up: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    flat, tokens, width = rows(gate_and_up)
    above, _, _ = rows(gradient)
    of_both, of_weight = gate_and_up.new_empty(gate_and_up.shape), torch.empty_like(weight)
    if tokens:
        weighted_backward_kernel[(tokens,)](
            flat, weight.contiguous(), above, of_both, of_weight, width // 2, BLOCK=BLOCK, num_warps=NUM_WARPS
        )
    return of_both, of_weight
