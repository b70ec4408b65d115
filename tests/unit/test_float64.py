"""What kernels are compared by: an answer of zero, as float64 rounds it, is no error; a wrong one is."""

import math

import torch

from tests.float64 import relative_error

# What one processor computes as the gradient through a share of one, s / s; another computes zeros.
ROUNDED_ZERO = torch.tensor([5.6e-17, -1.1e-16, 0.0], dtype=torch.float64)


def test_a_rounded_zero_is_zero() -> None:
    assert relative_error(torch.zeros(3), ROUNDED_ZERO) < 1e-6
    assert relative_error(torch.full((3,), 1e-6), ROUNDED_ZERO) > 1


def test_relative_error_is_of_the_exact_answer_and_tells_nan() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == 0.1
    assert math.isnan(relative_error(torch.tensor([3.0, math.nan]), exact))
