"""What an optimizer says of itself, held to what is done."""

import pytest
import torch

from mai.kernels import adamw
from mai.optimizer.optimizers import checkpoint_bytes, optimizer_of
from mai.optimizer.parameter_groups import GroupRule
from recipes.debug.tiny import tiny


def test_adamw_keeps_two_moments_and_a_checkpoint_holds_12_bytes_of_a_parameter() -> None:
    optimizer = optimizer_of(tiny().optimizer)
    assert [(state.name, state.format.name) for state in optimizer.states] == [
        ("exp_avg", "fp32"),
        ("exp_avg_sq", "fp32"),
    ]
    assert checkpoint_bytes(optimizer) == 12


def test_the_kernel_of_its_name_takes_its_states_and_its_numbers() -> None:
    """Against torch's own AdamW, with the rate and the decay of the group."""
    optimizer = optimizer_of(tiny().optimizer)
    weight, gradient = torch.linspace(-1, 1, 64), torch.linspace(1, 2, 64)
    theirs = torch.nn.Parameter(weight.clone())
    theirs.grad = gradient.clone() * 0.5
    torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.3).step()
    numbers = optimizer.update(GroupRule(0.2, 0.3), learning_rate=0.1, gradient_factor=0.5, number=1)
    states = [torch.zeros(64) for _ in optimizer.states]
    kernel = {"adamw": adamw.fused}[optimizer.name]
    kernel(weight, *states, gradient, None, numbers)
    torch.testing.assert_close(weight, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_adamw_says_how_far_a_gradient_that_is_off_moves_an_update() -> None:
    """The first update is g / (|g| + epsilon), whose bound is (1 + 1) / (|g| + epsilon)."""
    config = tiny().optimizer
    optimizer = optimizer_of(config)
    assert optimizer.steepest(1) == pytest.approx(1.0)
    squares = torch.tensor([4.0, 0.25], dtype=torch.float64) * (1 - config.beta2)
    bound = optimizer.sensitivity(squares, 1)
    assert bound.tolist() == pytest.approx([2 / (2.0 + config.epsilon), 2 / (0.5 + config.epsilon)])
