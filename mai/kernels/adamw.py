"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one flat fp32 shard: clipping and the half-precision copy of the
weights ride along, so that a step reads and writes everything once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mai.kernels.operators import operator


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one update needs to know besides the tensors."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    step: int
    """This update's number, from 1."""
    gradient_factor: float
    """What clipping multiplies the gradients by; 1 where nothing is clipped."""


def reference(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """In place: fp32 weights and moments take the step; `copy` takes the weights in its own dtype."""
    clipped = gradient * update.gradient_factor
    weight.mul_(1 - update.learning_rate * update.weight_decay)
    exp_avg.lerp_(clipped, 1 - update.beta1)
    exp_avg_sq.mul_(update.beta2).addcmul_(clipped, clipped, value=1 - update.beta2)
    step_size, root_correction = _corrections(update)
    denominator = (exp_avg_sq.sqrt() / root_correction).add_(update.epsilon)
    weight.addcdiv_(exp_avg, denominator, value=-step_size)
    if copy is not None:
        copy.copy_(weight)


def fused(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """`reference` in one launch. All tensors flat and contiguous."""
    step_size, root_correction = _corrections(update)
    _adamw(
        weight,
        exp_avg,
        exp_avg_sq,
        gradient,
        copy,
        1 - update.learning_rate * update.weight_decay,
        update.gradient_factor,
        update.beta1,
        update.beta2,
        step_size,
        root_correction,
        update.epsilon,
    )


def _corrections(update: Update) -> tuple[float, float]:
    """The step size and the root of the second moment's correction, for moments that begin at zero."""
    return (
        update.learning_rate / (1 - update.beta1**update.step),
        math.sqrt(1 - update.beta2**update.step),
    )


def _cpu(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    copy: Tensor | None,
    decay: float,
    gradient_factor: float,
    beta1: float,
    beta2: float,
    step_size: float,
    root_correction: float,
    epsilon: float,
) -> None:
    clipped = gradient if gradient_factor == 1 else gradient * gradient_factor
    weight.mul_(decay)
    exp_avg.lerp_(clipped, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(clipped, clipped, value=1 - beta2)
    weight.addcdiv_(exp_avg, (exp_avg_sq.sqrt() / root_correction).add_(epsilon), value=-step_size)
    if copy is not None:
        copy.copy_(weight)


_adamw = operator(
    "adamw(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor gradient, Tensor(d!)? copy, "
    "float decay, float gradient_factor, float beta1, float beta2, float step_size, float root_correction, "
    "float epsilon) -> ()",
    cpu=_cpu,
    cuda="adamw.adamw",
    fake=lambda *arguments: None,
)
