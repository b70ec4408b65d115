"""`mai/kernels/rope.py` in Triton.

Shapes: S positions, B sequences, H heads, D head size. A program turns several heads of one position of one sequence.
"""

import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover, table_strides, with_whole_rows

# Pairs of a program: 16 a thread.
PAIRS, NUM_WARPS = 2048, 4


@triton.jit
def turn_kernel(
    x,
    cos,
    sin,
    out,
    B,
    H,
    stride_S,
    stride_B,
    stride_H,
    table_S,
    table_B,
    HALF: tl.constexpr,
    DIRECTION: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    position, sequence = tl.program_id(0) // B, tl.program_id(0) % B
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, BLOCK)
    inside = (head < H)[:, None] & (pair < HALF)[None, :]
    angle = position.to(tl.int64) * table_S + sequence.to(tl.int64) * table_B + pair
    cosine = tl.load(cos + angle, mask=pair < HALF, other=0)[None, :]
    sine = tl.load(sin + angle, mask=pair < HALF, other=0)[None, :] * DIRECTION
    source = x + position.to(tl.int64) * stride_S + sequence.to(tl.int64) * stride_B
    where_from = head[:, None] * stride_H + pair[None, :]
    first = tl.load(source + where_from, mask=inside).to(tl.float32)
    second = tl.load(source + where_from + HALF, mask=inside).to(tl.float32)
    target = out + tl.program_id(0).to(tl.int64) * H * 2 * HALF
    where_to = head[:, None] * 2 * HALF + pair[None, :]
    tl.store(target + where_to, (first * cosine - second * sine).to(out.dtype.element_ty), mask=inside)
    tl.store(target + where_to + HALF, (second * cosine + first * sine).to(out.dtype.element_ty), mask=inside)


def turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    x = with_whole_rows(x)
    positions, sequences, heads, size = x.shape
    out = x.new_empty(x.shape)
    block = int(triton.next_power_of_2(size // 2))
    heads_per_program = int(min(triton.next_power_of_2(heads), max(1, PAIRS // block)))
    if x.numel():
        turn_kernel[(positions * sequences, cover(heads, heads_per_program))](
            x,
            cos,
            sin,
            out,
            sequences,
            heads,
            x.stride(0),
            x.stride(1),
            x.stride(2),
            *table_strides(cos),
            HALF=size // 2,
            DIRECTION=direction,
            HEADS=heads_per_program,
            BLOCK=block,
            num_warps=NUM_WARPS,
        )
    return out
