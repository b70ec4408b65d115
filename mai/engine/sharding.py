"""How data-parallel ranks share out a model: the verbs that the engine asks for, and what both ways have in common.

optimizer_sharding.py   parallel.sharding=optimizer: fp32 weights and moments (ZeRO-1)
full_sharding.py        parallel.sharding=full: weights and gradients too (ZeRO-3)
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mai.engine.shard import Shard
from mai.kernels.adamw import Update


class Sharding(Protocol):
    """This rank's parts of the model; all ranks must call each verb, in the same order."""

    chunks: list[Any]
    """The parts by virtual stage, as Megatron's schedules and its finalize_model_grads call them."""

    def zero_gradients(self) -> None:
        """Before the first backward pass of a step: every one adds to the gradients."""

    def gradient_norm(self) -> float:
        """Global L2 norm of the gradients; after the last backward pass."""

    def update(self, *, norm: float, clip_norm: float, learning_rate: float) -> None:
        """Clip and step, after `gradient_norm`; the next forward pass computes with the new weights."""

    def updates_done(self) -> int:
        """Updates applied so far: AdamW's bias correction counts them."""

    def set_updates_done(self, updates: int) -> None:
        """After a load."""

    def publish_main_weights(self) -> None:
        """After the fp32 weights were written from outside: let the model compute with them."""

    def shards(self) -> list[Shard]:
        """This rank's fp32 weights and moments as live tensors; replicas included."""

    def gradients(self) -> list[Shard]:
        """This rank's fp32 gradients, after `gradient_norm` and before `update`, which clips them in place."""


def global_norm(
    gradients: list[Tensor],
    *,
    device: torch.device,
    group: dist.ProcessGroup | None,
    sum_of_squares: Callable[[Tensor], Tensor] | None,
) -> float:
    """L2 norm over this rank's gradients and those of the group; all its ranks must call.

    Not finite on one rank means not finite on all, because the norm is summed over all ranks. Squares are summed in
    fp64: Megatron's fp32 sum (megatron/core/optimizer/clip_grads.py) is off by 1e-5 for a million elements on a CPU, by
    another amount in each layout, and the clipping follows it."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    if sum_of_squares is not None:
        for gradient in gradients:
            total += sum_of_squares(gradient)
    elif gradients:
        total += torch.stack(list(torch._foreach_norm(gradients, dtype=torch.float64))).square().sum()
    dist.all_reduce(total, group=group)
    return float(total.sqrt())


def clip_factor(*, norm: float, clip_norm: float) -> float:
    """What brings gradients of this norm to at most `clip_norm`; the small number is that of Megatron's clipping
    (megatron/core/optimizer/clip_grads.py)."""
    return min(1.0, clip_norm / (norm + 1.0e-6))


def update_each(
    adamw: torch.optim.AdamW,
    copies: Mapping[Tensor, Tensor],
    *,
    kernel: Callable[..., None],
    learning_rate: float,
    gradient_factor: float,
    number: int,
) -> None:
    """One update of every weight that `adamw` holds, in its groups and states, by our operation instead of its own.

    `copies`: what the model computes with, of the weights that are not themselves it. `number`: of this update."""
    for group in adamw.param_groups:
        beta1, beta2 = group["betas"]
        update = Update(
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=group["eps"],
            weight_decay=group["weight_decay"],
            gradient_factor=gradient_factor,
            number=number,
        )
        for weight in group["params"]:
            # Its own count of steps stays behind: reading it would wait for the card.
            state = adamw.state[weight]
            kernel(weight, state["exp_avg"], state["exp_avg_sq"], weight.grad, copies.get(weight), update)


def allocate_states(adamw: torch.optim.AdamW) -> None:
    """At once and not in the first step, so that memory is known before it, and a checkpoint has somewhere to go."""
    for group in adamw.param_groups:
        for weight in group["params"]:
            adamw.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
