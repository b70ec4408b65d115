"""What a weight may differ by is what the gradients' tolerance can make of it through AdamW, and little more."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mai.certify import tolerance
from mai.certify.tolerance import WeightAllowance
from mai.optimizer.optimizers import optimizer_of
from mai.recipe import OptimizerConfig

STEPS = 4
RATE = 1e-3
Numbers = NDArray[np.float64]


def adamw(weights: Numbers, gradients: list[Numbers], optimizer: OptimizerConfig) -> tuple[Numbers, list[Numbers]]:
    """Plain AdamW (arXiv 1711.05101) in fp64: the weights, and the second moments after each step."""
    first, second, seconds = np.zeros_like(weights), np.zeros_like(weights), []
    for step, gradient in enumerate(gradients, start=1):
        first = optimizer.beta1 * first + (1 - optimizer.beta1) * gradient
        second = optimizer.beta2 * second + (1 - optimizer.beta2) * gradient**2
        seconds.append(second)
        mean, square = first / (1 - optimizer.beta1**step), second / (1 - optimizer.beta2**step)
        weights = weights * (1 - RATE * optimizer.weight_decay)
        weights = weights - RATE * mean / (np.sqrt(square) + optimizer.epsilon)
    return weights, seconds


@pytest.mark.parametrize("beta2", [0.95, 0.999, 0.5])
def test_weights_stay_within_it_whatever_the_rounding(beta2: float) -> None:
    """Gradients of all sizes, down to far below the rounding; each rounded by as much as the tolerance, either way."""
    optimizer = OptimizerConfig(learning_rate=RATE, beta2=beta2, clip_norm=1e9)
    drawn = np.random.default_rng(0)
    sizes = 10.0 ** drawn.uniform(-9, 0, 10_000)
    gradients = [sizes * drawn.standard_normal(10_000) for _ in range(STEPS)]
    off = 1e-5
    rounded = [gradient + off * drawn.choice((-1, 1), 10_000) for gradient in gradients]
    weights = drawn.standard_normal(10_000) * 0.02
    (expected, seconds), (found, _) = (adamw(weights, each, optimizer) for each in (gradients, rounded))

    allowance = WeightAllowance(optimizer)
    for step, second in enumerate(seconds, start=1):
        allowance.after(step, second.astype(np.float32), gradient=off, norm=1.0, learning_rate=RATE)
    allowed = allowance.of(expected.astype(np.float32))
    used = np.abs(found - expected) / allowed
    assert used.max() <= 1
    assert used.max() > 0.2, "so loose that it says nothing"


def test_an_update_that_is_one_percent_off_is_not_within_it() -> None:
    optimizer = OptimizerConfig(learning_rate=RATE, clip_norm=1e9)
    gradients = [np.random.default_rng(step).standard_normal(1000) for step in range(STEPS)]
    weights = np.full(1000, 0.02)
    expected, seconds = adamw(weights, gradients, optimizer)
    allowance = WeightAllowance(optimizer)
    for step, second in enumerate(seconds, start=1):
        off = tolerance.GRADIENT * float(np.abs(gradients[step - 1]).max())
        allowance.after(step, second.astype(np.float32), gradient=off, norm=1.0, learning_rate=RATE)
    one_percent_more = expected + 0.01 * (expected - weights)
    is_within = np.abs(one_percent_more - expected) <= allowance.of(expected.astype(np.float32))
    assert is_within.mean() < 0.1


def test_no_gradients_make_a_steeper_step() -> None:
    optimizer = OptimizerConfig(learning_rate=RATE, clip_norm=1e9, epsilon=1e-30, weight_decay=0.0)
    drawn = np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        gradients = [drawn.standard_normal(100_000) for _ in range(step)]
        before, _ = adamw(np.zeros(100_000), gradients[:-1], optimizer)
        after, _ = adamw(np.zeros(100_000), gradients, optimizer)
        steepest_found = np.abs(after - before).max() / RATE
        steepest = optimizer_of(optimizer).steepest(step)
        assert 0.95 * steepest < steepest_found <= steepest * (1 + 1e-9)
