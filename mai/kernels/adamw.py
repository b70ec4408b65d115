"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one flat fp32 shard: clipping and the half-precision copy of the
weights ride along, so that an update reads and writes everything once.
"""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mai.kernels.operators import operator


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What an update needs to know besides the tensors, in the order of the operator's arguments."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    gradient_factor: float
    """What clipping multiplies the gradients by; 1 where nothing is clipped."""
    number: int
    """Of this update, from 1."""


def reference(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """In place: weights and moments take the update; `copy` takes the weights in its own dtype."""
    _cpu(weight, exp_avg, exp_avg_sq, gradient, copy, *astuple(update))


def fused(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """`reference` in one launch. All tensors flat and contiguous."""
    _adamw(weight, exp_avg, exp_avg_sq, gradient, copy, *astuple(update))


def _cpu(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    copy: Tensor | None,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    gradient_factor: float,
    number: int,
) -> None:
    adamw(
        [weight],
        [gradient if gradient_factor == 1 else gradient * gradient_factor],
        [exp_avg],
        [exp_avg_sq],
        [],
        # torch counts up before it uses the number.
        [torch.tensor(float(number - 1), device=weight.device)],
        fused=True,
        amsgrad=False,
        maximize=False,
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        eps=epsilon,
        weight_decay=weight_decay,
    )
    if copy is not None:
        copy.copy_(weight)


_adamw = operator(
    "adamw(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor gradient, Tensor(d!)? copy, "
    "float learning_rate, float beta1, float beta2, float epsilon, float weight_decay, float gradient_factor, "
    "int number) -> ()",
    cpu=_cpu,
    cuda="adamw.adamw",
    fake=lambda *arguments: None,
)
