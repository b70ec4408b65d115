"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one flat fp32 shard: clipping and the half-precision copy of the
weights ride along, so that an update reads and writes everything once.
"""

from dataclasses import astuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mai.kernels.adamw_update import Update
from mai.kernels.operators import operator


def reference(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """In place: weights and moments take the update; `copy` takes the weights in its own dtype."""
    adamw(
        [weight],
        [gradient if update.gradient_factor == 1 else gradient * update.gradient_factor],
        [exp_avg],
        [exp_avg_sq],
        [],
        # torch counts up before it uses the number.
        [torch.tensor(float(update.number - 1), device=weight.device)],
        fused=True,
        amsgrad=False,
        maximize=False,
        lr=update.learning_rate,
        beta1=update.beta1,
        beta2=update.beta2,
        eps=update.epsilon,
        weight_decay=update.weight_decay,
    )
    if copy is not None:
        copy.copy_(weight)


def fused(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
) -> None:
    """`reference` in one launch. All tensors flat and contiguous."""
    _adamw(weight, exp_avg, exp_avg_sq, gradient, copy, *astuple(update))


def _cpu(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, *numbers: float
) -> None:
    reference(weight, exp_avg, exp_avg_sq, gradient, copy, Update.of(*numbers))


_adamw = operator(
    "adamw(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor gradient, Tensor(d!)? copy, "
    "float learning_rate, float beta1, float beta2, float epsilon, float weight_decay, float gradient_factor, "
    "int number) -> ()",
    cpu=_cpu,
    cuda="adamw.adamw",
    fake=lambda *arguments: None,
)
