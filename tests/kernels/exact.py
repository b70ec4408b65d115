"""What a GPU kernel is compared with: the same in float64."""

from collections.abc import Callable

import pytest
import torch
import triton
from torch import Tensor

from tests.float64 import relative_error

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cpu" if INTERPRETED else "cuda"
on_gpu_or_interpreted = [] if INTERPRETED else [pytest.mark.gpu]

# Relative error by norm. bf16 keeps 8 bits: rounding the result once gives about 2^-9 / sqrt(3), and inputs are exact.
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}
each_dtype = pytest.mark.parametrize("dtype", BOUNDS)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_close(ours: Tensor, exact: Tensor, *, bound: float | None = None) -> None:
    assert ours.shape == exact.shape
    assert exact.dtype == torch.float64
    error = relative_error(ours, exact)
    # NaN fails here too.
    assert error <= (bound or BOUNDS[ours.dtype]), f"relative error {error:.2e}"


def exact_gradients(function: Callable[..., Tensor], *inputs: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.double().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, gradient.double())
