"""What an optimizer is: what it keeps of a parameter, and the numbers of an update. Without torch.

Engine, checkpoint, certificate and planner ask here, and know no optimizer by name. What computes the update bears the
optimizer's name in mai/kernels: it takes the weight, the states in this order, the gradient, the copy that the model
computes with, and the numbers.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mai.kernels.adamw_update import Update
from mai.optimizer.parameter_groups import GroupRule
from mai.recipe import OptimizerConfig
from mai.recipe.precision import FORMATS, Format

WEIGHT = FORMATS["fp32"]
"""The format of the weights that are updated (master weights), and of their gradients' sums."""


@dataclass(frozen=True, slots=True)
class State:
    """A number that is kept of each element of a parameter, besides its weight, from update to update."""

    name: str
    """In checkpoints."""
    format: Format


class Optimizer(Protocol):
    """A rule of update; to add one, write its class here, its kernel under its name, and its knobs in the recipe."""

    name: str
    states: Sequence[State]

    def update(self, rule: GroupRule, *, learning_rate: float, gradient_factor: float, number: int) -> object:
        """The kernel's numbers for the parameters of one group.

        Args:
            learning_rate: of this step, before the group's factor.
            gradient_factor: what clipping multiplies the gradients by.
            number: of this update, from 1."""

    judged_by: str
    """The state from which `sensitivity` follows: a certificate records it."""

    def sensitivity(self, state: Any, number: int) -> Any:
        """How far update `number` of an element may be off, in learning rates, if each gradient so far is off by one.

        `state`: an array, fp64, of what `judged_by` is after the update; returns as many numbers."""

    def steepest(self, number: int) -> float:
        """The largest update that any gradients give, in learning rates, after `number` of them."""


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name = "adamw"
    # torch's names, which Megatron-Core's checkpoints have too.
    states: Sequence[State] = (State("exp_avg", FORMATS["fp32"]), State("exp_avg_sq", FORMATS["fp32"]))

    judged_by = "exp_avg_sq"

    def __init__(self, config: OptimizerConfig) -> None:
        self._config = config

    def update(self, rule: GroupRule, *, learning_rate: float, gradient_factor: float, number: int) -> Update:
        return Update(
            learning_rate=learning_rate * rule.learning_rate_factor,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            epsilon=self._config.epsilon,
            weight_decay=rule.weight_decay,
            gradient_factor=gradient_factor,
            number=number,
        )

    def sensitivity(self, state: Any, number: int) -> Any:
        """An update is m / (sqrt(v) + epsilon), where m is a weighted mean of the gradients so far and sqrt(v) their
        weighted root mean square. If each gradient is off by at most 1, so is m, and so is sqrt(v), by the triangle
        inequality; |m| / sqrt(v) is at most `steepest`."""
        size = (state / (1 - self._config.beta2**number)) ** 0.5 + self._config.epsilon
        return (1 + self.steepest(number)) / size

    def steepest(self, number: int) -> float:
        """The largest |m| / sqrt(v) (Cauchy-Schwarz)."""
        means, squares = (_weights(beta, number) for beta in (self._config.beta1, self._config.beta2))
        pairs = zip(means, squares, strict=True)
        return math.sqrt(sum(mean**2 / max(square, sys.float_info.min) for mean, square in pairs))


def _weights(beta: float, number: int) -> list[float]:
    """What each gradient counts in a running mean of so many, the newest first."""
    powers = [beta**age for age in range(number)]
    return [power / sum(powers) for power in powers]


def optimizer_of(config: OptimizerConfig) -> Optimizer:
    """The optimizer that the recipe's section names; there is one."""
    return AdamW(config)


def checkpoint_bytes(optimizer: Optimizer) -> int:
    """What a checkpoint holds of an element of a parameter: its weight, and all that is kept of it."""
    return WEIGHT.num_bytes + sum(state.format.num_bytes for state in optimizer.states)
