"""The sum of the squares of a flat tensor in fp64, which the global gradient norm is made of."""

import torch
from torch import Tensor

from mai.kernels.operators import operator


def reference(x: Tensor) -> Tensor:
    """fp64 scalar. An fp32 sum of millions of squares is off by 1e-5, and differently in each layout."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64)
    return norm.square()


def fused(x: Tensor) -> Tensor:
    """`reference` without the fp64 copy of the tensor. Contiguous."""
    return _sum_of_squares(x)  # type: ignore[no-any-return]


_sum_of_squares = operator(
    "sum_of_squares(Tensor x) -> Tensor",
    cpu=reference,
    cuda="sum_of_squares.sum_of_squares",
    fake=lambda x: x.new_empty((), dtype=torch.float64),
)
