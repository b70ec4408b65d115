"""SwiGLU and its clamped version against the formulas, number by number."""

import math

import pytest
import torch

from mai.kernels import swiglu

NUMBERS = [-20.0, -7.5, -1.0, 0.0, 0.3, 6.9, 7.5, 20.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("gate", NUMBERS)
@pytest.mark.parametrize("up", NUMBERS)
def test_both_are_the_formula(gate: float, up: float) -> None:
    pair = torch.tensor([[gate, up]], dtype=torch.float64)
    assert swiglu.reference(pair).item() == pytest.approx(gate * sigmoid(gate) * up)
    low_gate, low_up = min(gate, 7.0), max(-7.0, min(up, 7.0))
    clamped = low_gate * sigmoid(1.702 * low_gate) * (low_up + 1)
    assert swiglu.clamped_reference(pair).item() == pytest.approx(clamped)
