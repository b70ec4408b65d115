"""`mai/kernels/weight_gradient.py` on CUDA: cuBLAS, which multiplies halves and adds to fp32."""

import torch
from torch import Tensor


def add(total: Tensor, input: Tensor, gradient: Tensor) -> None:
    if input.dtype == total.dtype:
        total.addmm_(gradient.t(), input)
        return
    torch.addmm(total, gradient.t(), input, out_dtype=total.dtype, out=total)
