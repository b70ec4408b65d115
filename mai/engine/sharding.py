"""How data-parallel ranks share out a model: the verbs that the engine asks for, and what both ways have in common.

optimizer_sharding.py   parallel.sharding=optimizer: fp32 weights and moments (ZeRO-1)
full_sharding.py        parallel.sharding=full: weights and gradients too (ZeRO-3)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mai.engine.operations import update_kernel
from mai.engine.shard import Shard
from mai.optimizer.optimizers import Optimizer, optimizer_of
from mai.optimizer.parameter_groups import GroupRule
from mai.recipe import Recipe


class Sharding(Protocol):
    """This rank's virtual stages; all ranks must call each verb, in the same order."""

    wrapped_stages: list[Any]
    """The virtual stages as Megatron's schedules and its finalize_model_grads call them."""
    updates: "Updates"
    """To apply after `finish_gradients`; the next forward pass computes with the new weights."""

    def zero_gradients(self) -> None:
        """Before the first backward pass of a step: every one adds to the gradients."""

    def finish_gradients(self) -> None:
        """After the last backward pass: bring the gradients to the weights that are updated."""

    def gradient_norm(self) -> float:
        """Global L2 norm of the gradients, after `finish_gradients`; what is frozen does not count."""

    def publish_main_weights(self) -> None:
        """After the fp32 weights were written from outside: let the model compute with them."""

    def shards(self) -> list[Shard]:
        """This rank's fp32 weights and the optimizer's states as live tensors; replicas included."""

    def gradients(self) -> list[Shard]:
        """This rank's fp32 gradients as live tensors, after `finish_gradients` and before an update."""


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


@dataclass(frozen=True, slots=True)
class Owned:
    """What a rank updates of one parameter: flat, or rows of it."""

    weight: Tensor
    """fp32; its gradient is its `grad`."""
    copy: Tensor | None
    """What the model computes with; None where that is `weight` itself, or made of it before each use."""
    states: dict[str, Tensor]
    """The optimizer's, by name."""
    rule: GroupRule


def new_states(weight: Tensor, optimizer: Optimizer) -> dict[str, Tensor]:
    """Zeros. Made before the first step, so that memory is known then, and a checkpoint has somewhere to go."""
    return {
        state.name: torch.zeros_like(weight, dtype=getattr(torch, state.format.torch)) for state in optimizer.states
    }


class Updates:
    """What a rank updates, by the recipe's optimizer, and how often it has."""

    def __init__(self, recipe: Recipe, owned: Sequence[Owned]) -> None:
        self.num_done = 0
        """Bias corrections count them; a load sets it."""
        self._optimizer, self._kernel = optimizer_of(recipe.optimizer), update_kernel(recipe)
        self._clip_norm, self._owned = recipe.optimizer.clip_norm, owned

    def forget_frozen_gradients(self) -> None:
        """What is not updated does not count in the norm."""
        frozen = [own.weight.grad for own in self._owned if own.rule.is_frozen and own.weight.grad is not None]
        if frozen:
            torch._foreach_zero_(frozen)

    @torch.no_grad()
    def apply(self, *, norm: float, learning_rate: float) -> None:
        """Clip by the norm of all ranks' gradients, and update all that is not frozen."""
        self.num_done += 1
        gradient_factor = clip_factor(norm=norm, clip_norm=self._clip_norm)
        for own in self._owned:
            if own.rule.is_frozen:
                continue
            numbers = self._optimizer.update(
                own.rule,
                learning_rate=learning_rate,
                gradient_factor=gradient_factor,
                number=self.num_done,
            )
            self._kernel(own.weight, *own.states.values(), own.weight.grad, own.copy, numbers)
