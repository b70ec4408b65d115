"""`mai/kernels/sum_of_squares.py` in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover, num_multiprocessors

BLOCK, NUM_WARPS = 4096, 8
PROGRAMS_PER_MULTIPROCESSOR = 4


@triton.jit
def sum_of_squares_kernel(x, out, length, BLOCK: tl.constexpr):
    total = tl.zeros((), dtype=tl.float64)
    first, step = tl.program_id(0).to(tl.int64) * BLOCK, tl.num_programs(0) * BLOCK
    for turn in range(tl.cdiv(length - first, step)):
        place = first + turn * step + tl.arange(0, BLOCK)
        value = tl.load(x + place, mask=place < length, other=0).to(tl.float32)
        # fp32 within a block of a few thousand squares, fp64 between them: fp64 units are half as many.
        total += tl.sum(value * value).to(tl.float64)
    tl.store(out + tl.program_id(0), total)


def sum_of_squares(x: Tensor) -> Tensor:
    assert x.is_contiguous()
    programs = min(cover(x.numel(), BLOCK), PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors(x.device))
    parts = x.new_empty((programs,), dtype=torch.float64)
    if x.numel():
        sum_of_squares_kernel[(programs,)](x, parts, x.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return parts.sum()
