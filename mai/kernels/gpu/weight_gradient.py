"""`mai/kernels/weight_gradient.py` on CUDA: cuBLAS, which multiplies halves and adds to fp32."""

import torch
from torch import Tensor


def add(total: Tensor, inputs: Tensor, gradient: Tensor) -> None:
    if inputs.dtype == total.dtype:
        total.addmm_(gradient.t(), inputs)
        return
    torch.addmm(total, gradient.t(), inputs, out_dtype=total.dtype, out=total)
