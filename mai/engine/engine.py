"""The engine: a model cut over ranks, behind a few verbs. All ranks must call each of them, in the same order."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from mai.batch import Batch
from mai.collectives import sum_floats
from mai.engine import optimizer as optimizers
from mai.engine import sharded_state
from mai.engine.build import build_model
from mai.engine.device import Device
from mai.engine.groups import Groups
from mai.engine.translate import data_parallel_config
from mai.parallel.layout import Layout
from mai.recipe import Recipe

Loss = Callable[[Tensor, Batch], Tensor]
"""Token losses [B, S] in nats and their micro-batch -> the sum that is trained on (a scalar)."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a forward and backward pass over one batch gave; the same on every rank."""

    loss: float
    """Mean over the batch's tokens, nats."""
    norm: float
    """Global L2 norm, before clipping."""

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Engine:
    """A model that trains: Megatron's GPTModel, schedules, data parallel wrapper and distributed optimizer."""

    def __init__(self, recipe: Recipe, layout: Layout, groups: Groups, device: Device) -> None:
        self._recipe, self._groups, self._device = recipe, groups, device
        self._module = build_model(
            recipe,
            layout,
            groups,
            device=device.torch_device,
            max_length=recipe.data.sequence_length,
            sequence_parallel=recipe.parallel.sequence,
        )
        config = self._module.config
        self._model = DistributedDataParallel(config, data_parallel_config(), self._module)
        self._optimizer = optimizers.build_optimizer(self._model, recipe)
        config.finalize_model_grads_func = finalize_model_grads
        config.grad_scale_func = None
        self._schedule = get_forward_backward_func()

    @property
    def groups(self) -> Groups:
        return self._groups

    def forward_backward(self, batch: Batch, loss: Loss) -> Gradients:
        """Gradients of the mean loss over all data-parallel ranks' batches; the weights do not change."""
        self._model.train()
        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()
        mean = self._mean_loss(self._run_schedule(batch, loss, forward_only=False))
        return Gradients(loss=mean, norm=optimizers.gradient_norm(self._optimizer))

    def apply(self, gradients: Gradients, *, learning_rate: float) -> None:
        """Update the weights with the gradients of the last `forward_backward`."""
        optimizers.update(
            self._optimizer,
            norm=gradients.norm,
            clip_norm=self._recipe.optimizer.clip_norm,
            learning_rate=learning_rate,
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch, loss: Loss) -> tuple[float, int]:
        """Sum of the loss over all data-parallel ranks' batches, and the number of tokens."""
        self._model.eval()
        total, tokens = self._totals(self._run_schedule(batch, loss, forward_only=True))
        return total, tokens

    def shards(self) -> list[sharded_state.Shard]:
        """What this rank holds, as live tensors: read to save, write to load and then call `finish_load`."""
        return sharded_state.training_shards(self._module, self._optimizer)

    def finish_load(self, *, updates: int) -> None:
        """After every rank wrote its shards: take `updates` as the number of updates done, publish the weights."""
        optimizers.set_updates_done(self._optimizer, updates)
        optimizers.publish_main_weights(self._optimizer)

    @property
    def updates(self) -> int:
        """Updates applied since the first step."""
        return optimizers.updates_done(self._optimizer)

    def _run_schedule(self, batch: Batch, loss: Loss, *, forward_only: bool) -> list[dict[str, Any]]:
        size = self._recipe.parallel.micro_batch_sequences
        micro_batches = list(_micro_batches(batch, size, self._device.torch_device))
        return self._schedule(  # type: ignore[no-any-return]
            forward_step_func=partial(_forward_step, loss=loss),
            data_iterator=iter(micro_batches),
            model=[self._model],
            num_microbatches=len(micro_batches),
            seq_length=batch.tokens_BS.size(1),
            micro_batch_size=size,
            forward_only=forward_only,
        )

    def _totals(self, outputs: list[dict[str, Any]]) -> tuple[float, int]:
        # Each data-parallel copy's loss is known to the tensor ranks of its last stage; the first of them counts.
        counts = self._groups.is_last_stage and self._groups.tensor_rank == 0
        local = [[float(out["loss"]), float(out["tokens"])] for out in outputs] if counts else []
        total, tokens = sum_floats(
            [sum(loss for loss, _ in local), sum(tokens for _, tokens in local)], device=self._device.torch_device
        )
        return total, int(tokens)

    def _mean_loss(self, outputs: list[dict[str, Any]]) -> float:
        total, tokens = self._totals(outputs)
        return total / tokens


def _micro_batches(batch: Batch, size: int, device: torch.device) -> Iterator[Batch]:
    assert batch.tokens_BS.size(0) % size == 0, "recipe/rules.py lets no such batch through"
    for tokens, targets in zip(batch.tokens_BS.split(size), batch.targets_BS.split(size), strict=True):
        yield Batch(tokens.to(device), targets.to(device))


def _forward_step(data_iterator: Iterator[Batch], model: GPTModel, *, loss: Loss) -> tuple[Tensor, Any]:
    """Megatron's forward_step_func: the stage's output, and how its last stage turns it into a loss."""
    micro_batch = next(data_iterator)
    output = model(micro_batch.tokens_BS, None, None, labels=micro_batch.targets_BS)

    def loss_function(token_losses_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        summed = loss(token_losses_BS, micro_batch)
        tokens = torch.tensor(token_losses_BS.numel(), dtype=torch.int, device=summed.device)
        return summed, tokens, {"loss": summed.detach(), "tokens": token_losses_BS.numel()}

    return output, loss_function
