"""Sums of columns, in a fixed order: the parts of a weight's gradient that programs found, added up.

Shapes: N rows, M columns. A program adds a few columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover

# Few columns, so that as many programs as there are multiprocessors have some; 16 bytes a thread.
ROWS, COLUMNS, NUM_WARPS = 64, 16, 4


@triton.jit
def column_sums_kernel(x, out, N, M, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS)[:, None], tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, N, ROWS):
        inside = (start + row < N) & (column < M)
        total += tl.load(x + (start + row) * stride + column, mask=inside, other=0)
    tl.store(out + column, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=column < M)


def column_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums [M] over the rows of an fp32 [N, M] whose rows are contiguous, rounded once."""
    assert x.stride(1) == 1
    out = x.new_empty(x.size(1), dtype=dtype)
    column_sums_kernel[(cover(x.size(1), COLUMNS),)](
        x, out, *x.shape, x.stride(0), ROWS=ROWS, COLUMNS=COLUMNS, num_warps=NUM_WARPS
    )
    return out
