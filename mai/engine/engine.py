"""The engine: a model cut over ranks, behind a few verbs. All ranks must call each of them, in the same order."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from mai.batch import Batch
from mai.collectives import sum_floats
from mai.engine import experts
from mai.engine.build import build_model, share_out
from mai.engine.context import own_columns
from mai.engine.device import Device
from mai.engine.groups import Groups, of_all_stages
from mai.engine.multi_token import num_further_targets, split_depths
from mai.engine.open_gradients import OpenGradients
from mai.engine.routing_replay import OwnTokens, Picks
from mai.engine.shard import Shard
from mai.engine.sharded_state import blocks
from mai.engine.translate import schedule_function
from mai.parallel.layout import Layout
from mai.recipe import Recipe

Loss = Callable[[Tensor, Batch], Tensor]
"""Token losses [B, S] in nats and their micro-batch -> the sum that is trained on (a scalar)."""


def summed(token_losses_BS: Tensor, _: Batch) -> Tensor:
    """The standard `Loss`: the sum of the token losses."""
    return token_losses_BS.float().sum()


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a forward and backward pass over one batch gave; the same on every rank."""

    loss: float
    """Mean over the batch's tokens, nats."""
    norm: float
    """Global L2 norm, before clipping."""
    multi_token_loss: float | None = None
    """Mean over the tokens that further depths predict, nats; None without such depths."""

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class _Totals(NamedTuple):
    """Sums over all ranks' outputs of a batch."""

    loss: float
    tokens: int
    further_loss: float
    """Over all depths; 0 in evaluation, where they are not computed."""
    further_tokens: int
    """That further depths predict when they train."""


class Engine:
    """A model that trains: Megatron's GPTModel and schedules, shared out over the data-parallel ranks."""

    def __init__(self, recipe: Recipe, layout: Layout, groups: Groups, device: Device) -> None:
        self._recipe, self._groups, self._device = recipe, groups, device
        self._layout = layout
        self._modules = build_model(
            recipe,
            layout,
            groups,
            device=device.torch_device,
            max_length=recipe.data.sequence_length,
            sequence_parallel=recipe.parallel.sequence,
        )
        # Before they are shared out, when each parameter is whole.
        self._own_names = [block.name for _, _, block in blocks(self._modules)]
        self._sharding = share_out(self._modules, recipe, layout, groups, device=device.torch_device)
        config, chunks = self._modules[0].config, self._sharding.chunks
        config.finalize_model_grads_func = finalize_model_grads
        config.no_sync_func = [chunk.no_sync for chunk in chunks] if self._is_interleaved else chunks[0].no_sync
        config.grad_scale_func = None
        self._schedule = schedule_function(layout.schedule)

    @property
    def groups(self) -> Groups:
        return self._groups

    def forward_backward(self, batch: Batch, loss: Loss) -> Gradients:
        """Gradients of the mean loss over all data-parallel ranks' batches; the weights do not change.

        `loss` is the recipe's: where that names none, it must be `summed`, or RuntimeError is
        raised, on a GPU some time later (mai/kernels/linear_cross_entropy.py)."""
        for chunk in self._sharding.chunks:
            chunk.train()
        self._sharding.zero_gradients()
        experts.forget_counts(self._modules)
        outputs = self._run_schedule(batch, loss, forward_only=False)
        self._sharding.finish_gradients()
        # Enqueued before anything is waited for: the losses are read behind it.
        norm = self._sharding.gradient_norm()
        totals = self._totals(outputs)
        further = totals.further_loss / totals.further_tokens if totals.further_tokens else None
        return Gradients(loss=totals.loss / totals.tokens, norm=norm, multi_token_loss=further)

    def apply(self, gradients: Gradients, *, learning_rate: float) -> None:
        """Update the weights with the gradients of the last `forward_backward`."""
        self._sharding.update(
            norm=gradients.norm,
            clip_norm=self._recipe.optimizer.clip_norm,
            learning_rate=learning_rate,
        )
        experts.update_selection_bias(self._modules)

    def open_gradients(self, gradients: Gradients) -> OpenGradients:
        """The gradients of the last `forward_backward`, to look at and to change; then call `with_norm_anew`."""
        return OpenGradients(
            self._sharding.gradients(),
            names=self._parameter_names,
            loss=gradients.loss,
            norm=gradients.norm,
            device=self._device.torch_device,
        )

    def with_norm_anew(self, gradients: Gradients) -> Gradients:
        """After the gradients were changed from outside: their norm as it is now, by which they are clipped."""
        return replace(gradients, norm=self._sharding.gradient_norm())

    @cached_property
    def _parameter_names(self) -> list[str]:
        return list(dict.fromkeys(name for names in of_all_stages(self._own_names) for name in names))

    def gradients(self) -> list[Shard]:
        """What this rank holds of the last `forward_backward`'s gradients, before `apply` clips them."""
        return self._sharding.gradients()

    def record_routing(self) -> None:
        """Write down where the next `forward_backward` sends its tokens; on one rank."""
        experts.record_routing(self._modules)

    def recorded_routing(self) -> Picks:
        """What was written down."""
        return experts.recorded_routing(
            self._modules, micro_batch_sequences=self._recipe.parallel.micro_batch_sequences
        )

    def replay_routing(self, picks: Picks) -> None:
        """Send the tokens of the next `forward_backward`, of the same batch, where another layout sent them."""
        size = self._recipe.parallel.micro_batch_sequences
        experts.replay_routing(self._modules, picks, self._own_tokens(), micro_batch_sequences=size)

    def _own_tokens(self) -> OwnTokens:
        share = self._recipe.batch_sequences // self._layout.data
        first = self._groups.data_rank * share
        positions_1L = own_columns(
            torch.arange(self._recipe.data.sequence_length)[None],
            rank=self._groups.context_rank,
            ranks=self._layout.context,
        )
        if self._recipe.parallel.sequence:
            positions_1L = positions_1L.chunk(self._layout.tensor, dim=1)[self._groups.tensor_rank]
        return OwnTokens(sequences=range(first, first + share), positions_L=positions_1L[0])

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[float, int]:
        """Sum of the token losses over all data-parallel ranks' batches, in nats, and the number of tokens."""
        for chunk in self._sharding.chunks:
            chunk.eval()
        totals = self._totals(self._run_schedule(batch, summed, forward_only=True))
        return totals.loss, totals.tokens

    def shards(self) -> list[Shard]:
        """What this rank holds, as live tensors: read to save, write to load and then call `finish_load`."""
        return self._sharding.shards()

    def finish_load(self, *, updates: int) -> None:
        """After every rank wrote its shards: take `updates` as the number of updates done, publish the weights."""
        self._sharding.set_updates_done(updates)
        self._sharding.publish_main_weights()

    @property
    def updates(self) -> int:
        """Updates applied since the first step."""
        return self._sharding.updates_done()

    def _run_schedule(self, batch: Batch, loss: Loss, *, forward_only: bool) -> list[dict[str, Any]]:
        size = self._recipe.parallel.micro_batch_sequences
        micro_batches = list(self._micro_batches(batch, size))
        # Every virtual stage reads all micro-batches, at its own pace.
        readers = [iter(micro_batches) for _ in self._sharding.chunks]
        return self._schedule(  # type: ignore[no-any-return]
            forward_step_func=partial(
                _forward_step, loss=loss, further_weight=self._recipe.objective.multi_token_weight
            ),
            data_iterator=readers if self._is_interleaved else readers[0],
            model=self._sharding.chunks,
            num_microbatches=len(micro_batches),
            seq_length=batch.tokens_BS.size(1),
            micro_batch_size=size,
            forward_only=forward_only,
        )

    def _micro_batches(self, batch: Batch, size: int) -> Iterator[Batch]:
        assert batch.tokens_BS.size(0) % size == 0, "recipe/rules/batch.py lets no such batch through"
        rank, ranks = self._groups.context_rank, self._layout.context
        for tokens, targets in zip(batch.tokens_BS.split(size), batch.targets_BS.split(size), strict=True):
            own = (
                own_columns(whole, rank=rank, ranks=ranks).to(self._device.torch_device) for whole in (tokens, targets)
            )
            yield Batch(*own)

    @property
    def _is_interleaved(self) -> bool:
        return self._layout.schedule.is_interleaved

    def _totals(self, outputs: list[dict[str, Any]]) -> _Totals:
        # The loss of each sequence, or part of it, is known to the tensor ranks of its last stage; the first counts.
        counts = self._groups.is_last_stage and self._groups.tensor_rank == 0
        local = [[float(out[name]) for name in ("loss", "tokens", "further_loss")] for out in outputs if counts]
        loss, tokens, further_loss = sum_floats(
            [sum(column) for column in zip(*local, strict=True)] or [0.0] * 3, device=self._device.torch_device
        )
        further_tokens = num_further_targets(
            int(tokens),
            sequence_length=self._recipe.data.sequence_length,
            depths=self._recipe.model.multi_token_depths,
        )
        return _Totals(loss, int(tokens), further_loss, further_tokens)


def _forward_step(
    data_iterator: Iterator[Batch], model: GPTModel, *, loss: Loss, further_weight: float
) -> tuple[Tensor, Any]:
    """Megatron's forward_step_func: the stage's output, and how its last stage turns it into a loss."""
    micro_batch = next(data_iterator)
    output = model(micro_batch.tokens_BS, None, None, labels=micro_batch.targets_BS)

    def loss_function(losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        token_losses_BS, further_DBS = split_depths(losses)
        summed = loss(token_losses_BS, micro_batch)
        further = further_DBS.float().sum()
        said = {"loss": summed.detach(), "tokens": token_losses_BS.numel(), "further_loss": further.detach()}
        if further_DBS.size(0):
            # Equations 24 and 25: a mean over depths, each of which counts the sequence's tokens as the main loss does.
            summed = summed + further_weight / further_DBS.size(0) * further
        # Not torch.tensor: its copy to the card would wait for the whole forward pass.
        tokens = torch.full((), token_losses_BS.numel(), dtype=torch.int, device=summed.device)
        return summed, tokens, said

    return output, loss_function
