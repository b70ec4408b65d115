"""The engine: a model cut over ranks, behind a few verbs. All ranks must call each of them, in the same order."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch._dynamo  # the first optimizer would, on every rank: here, a launcher has done so before it forks them
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from torch import Tensor

from mai.batch import Batch
from mai.collectives import max_int, sum_floats
from mai.engine import experts, sharded_state
from mai.engine.build_model import build_model, share_out
from mai.engine.context_attention import own_columns
from mai.engine.device import Device
from mai.engine.groups import Groups
from mai.engine.multi_token import split_depths
from mai.engine.open_gradients import OpenGradients
from mai.engine.passes import Passes, Said
from mai.engine.routing_replay import OwnTokens, Picks
from mai.engine.shard import Shard
from mai.errors import DataError
from mai.parallel.layout import Layout
from mai.recipe import Recipe

Loss = Callable[[Tensor, Batch], Tensor]
"""Token losses [B, S] in nats and their micro-batch -> the sum that is trained on (a scalar)."""


def summed(token_losses_BS: Tensor, batch: Batch) -> Tensor:
    """The standard `Loss`: the sum of the token losses, each times its weight."""
    losses_BS = token_losses_BS.float()
    return losses_BS.sum() if batch.weights_BS is None else (losses_BS * batch.weights_BS).sum()


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a forward and backward pass over one batch gave; the same on every rank."""

    loss: float
    """Sum over the batch's targets, each times its weight, over the number of those that count, nats."""
    norm: float
    """Global L2 norm, before clipping."""
    multi_token_loss: float | None = None
    """The same of the targets of further depths; None without such depths."""
    expert_tokens: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """How many of the step's counted tokens picked each expert, by layer from 0; empty without experts."""

    @property
    def expert_imbalance(self) -> float | None:
        """Tokens of the busiest expert over the mean, in the layer where that is most; None without experts."""
        shares = [max(tokens) * len(tokens) / sum(tokens) for tokens in self.expert_tokens.values() if sum(tokens)]
        return max(shares, default=None)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class _Totals(NamedTuple):
    """Sums over all ranks' outputs of a batch."""

    loss: float
    tokens: float
    """Targets that count."""
    further_loss: float
    """Over all depths; 0 in evaluation, where they are not computed."""
    further_tokens: float = 0.0
    """Their targets that count; of a model that has depths."""


class Engine:
    """A model that trains: Megatron's GPTModel and schedules, shared out over the data-parallel ranks."""

    def __init__(self, recipe: Recipe, layout: Layout, groups: Groups, device: Device) -> None:
        self._recipe, self._groups, self._device = recipe, groups, device
        self._layout = layout
        self._virtual_stages = build_model(
            recipe,
            layout,
            groups,
            device=device.torch_device,
            max_length=recipe.data.sequence_length,
            sequence_parallel=recipe.parallel.sequence,
        )
        # Before they are shared out, when each parameter is whole.
        self._own_names = [block.name for _, _, block in sharded_state.blocks(self._virtual_stages)]
        update_rules = sharded_state.update_rules(self._virtual_stages, recipe.optimizer)
        experts.freeze_routers(self._virtual_stages, update_rules)
        self._sharding = share_out(
            self._virtual_stages, update_rules, recipe, layout, groups, device=device.torch_device
        )
        config, wrapped = self._virtual_stages[0].config, self._sharding.wrapped_stages
        config.finalize_model_grads_func = finalize_model_grads
        config.no_sync_func = [each.no_sync for each in wrapped] if len(wrapped) > 1 else wrapped[0].no_sync
        config.grad_scale_func = None
        self._passes = Passes(
            recipe,
            layout,
            groups,
            device,
            virtual_stages=self._virtual_stages,
            wrapped_stages=wrapped,
            max_length=recipe.data.sequence_length,
        )

    @property
    def groups(self) -> Groups:
        return self._groups

    def forward_backward(self, batch: Batch, loss: Loss) -> Gradients:
        """Gradients of the mean loss over all data-parallel ranks' batches; the weights do not change.

        The loss and its gradients are divided by the number of targets that count, over all ranks and micro-batches:
        an objective that divides by some other Z scales its weights by that number over Z (`num_counted`). Any g_t, the
        gradient of some function L of the targets' log-probabilities l_t (`log_probs`), enters as the weight
        -g_t * num_counted: the gradients are then those of sum(g_t l_t), which are L's.

        `loss` is the recipe's: where that names none, it must be `summed`, or RuntimeError is raised, on a GPU some
        time later (mai/kernels/linear_cross_entropy.py). DataError where no target counts."""
        for virtual_stage in self._sharding.wrapped_stages:
            virtual_stage.train()
        self._sharding.zero_gradients()
        experts.forget_counts(self._virtual_stages)
        depths, further_weight = self._recipe.model.multi_token_depths, self._recipe.objective.multi_token_weight
        finish = partial(_losses, loss=loss, further_weight=further_weight)
        outputs = self._passes.run(batch, finish, depths=depths, forward_only=False)
        self._sharding.finish_gradients()
        # Enqueued before anything is waited for: the losses are read behind it.
        norm = self._sharding.gradient_norm()
        totals, expert_tokens = self._totals(outputs, self._own_expert_counts())
        further = totals.further_loss / totals.further_tokens if totals.further_tokens else None
        return Gradients(
            loss=totals.loss / totals.tokens, norm=norm, multi_token_loss=further, expert_tokens=expert_tokens
        )

    def apply(self, gradients: Gradients, *, learning_rate: float) -> None:
        """Update the weights with the gradients of the last `forward_backward`."""
        self._sharding.updates.apply(norm=gradients.norm, learning_rate=learning_rate)
        experts.update_selection_bias(self._virtual_stages)

    def open_gradients(self, gradients: Gradients, *, step: int) -> OpenGradients:
        """The gradients of the last `forward_backward`, which was this step's, to look at and to change; then call
        `with_norm_anew`."""
        return OpenGradients(
            self._sharding.gradients(),
            names=self._parameter_names,
            step=step,
            loss=gradients.loss,
            norm=gradients.norm,
            expert_tokens=gradients.expert_tokens,
            device=self._device.torch_device,
        )

    def with_norm_anew(self, gradients: Gradients) -> Gradients:
        """After the gradients were changed from outside: their norm as it is now, by which they are clipped."""
        return replace(gradients, norm=self._sharding.gradient_norm())

    @cached_property
    def _parameter_names(self) -> list[str]:
        stages = self._groups.pipeline_group
        of_stages: list[list[str]] = [[]] * stages.size()
        dist.all_gather_object(of_stages, self._own_names, group=stages)
        return list(dict.fromkeys(name for names in of_stages for name in names))

    def gradients(self) -> list[Shard]:
        """What this rank holds of the last `forward_backward`'s gradients, before `apply` clips them."""
        return self._sharding.gradients()

    def record_routing(self) -> None:
        """Write down where the next `forward_backward` sends its tokens; on one rank."""
        experts.record_routing(self._virtual_stages)

    def recorded_routing(self) -> Picks:
        """What was written down."""
        return experts.recorded_routing(
            self._virtual_stages, micro_batch_sequences=self._recipe.parallel.micro_batch_sequences
        )

    def replay_routing(self, picks: Picks) -> None:
        """Send the tokens of the next `forward_backward`, of the same batch, where another layout sent them."""
        size = self._recipe.parallel.micro_batch_sequences
        experts.replay_routing(self._virtual_stages, picks, self._own_tokens(), micro_batch_sequences=size)

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
        """Sum of the weighted token losses over all data-parallel ranks' batches, in nats, and the number of targets
        that count. DataError where none does."""
        for virtual_stage in self._sharding.wrapped_stages:
            virtual_stage.eval()
        finish = partial(_losses, loss=summed, further_weight=0.0)
        totals, _ = self._totals(self._passes.run(batch, finish, forward_only=True), [])
        return totals.loss, int(totals.tokens)

    def log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities of the targets, fp32 [B, S] on the CPU; the same on all model ranks of a copy."""
        return self._passes.log_probs(batch)

    def num_counted(self, batch: Batch) -> int:
        """How many targets of all data-parallel ranks' batches count: what `forward_backward` divides by."""
        groups = self._groups
        speaks = groups.is_first_stage and groups.tensor_rank == groups.context_rank == 0
        (number,) = sum_floats([float(batch.num_counted()) if speaks else 0.0], device=self._device.torch_device)
        return int(number)

    def takes(self, batch: Batch) -> bool:
        """Whether the models of all ranks can take what this batch says of its tokens, those of the user's own too."""
        return max_int(len(self._passes.hindrances(batch)), device=self._device.torch_device) == 0

    def shards(self) -> list[Shard]:
        """What this rank holds, as live tensors: read to save, write to load and then call `finish_load`."""
        return self._sharding.shards()

    def finish_load(self, *, updates: int) -> None:
        """After every rank wrote its shards: take `updates` as the number of updates done, publish the weights."""
        self._sharding.updates.num_done = updates
        self._sharding.publish_main_weights()

    @property
    def updates(self) -> int:
        """Updates applied since the first step."""
        return self._sharding.updates.num_done

    def _own_expert_counts(self) -> list[list[float]]:
        model = self._recipe.model
        if model.experts is None:
            return []
        return experts.own_counts(self._virtual_stages, model.num_layers, model.experts.num_experts)

    def _totals(
        self, outputs: list[dict[str, Any]], expert_counts: list[list[float]]
    ) -> tuple[_Totals, dict[int, list[int]]]:
        """With the sums of all ranks' counts of tokens by layer and expert: one reduction for both."""
        # The loss of each sequence, or part of it, is known to the tensor ranks of its last stage; the first counts.
        counts = self._groups.is_last_stage and self._groups.tensor_rank == 0
        names = _Totals._fields if self._recipe.model.multi_token_depths else _Totals._fields[:-1]
        local = [[float(out[name]) for name in names] for out in outputs if counts]
        sums = [sum(column) for column in zip(*local, strict=True)] or [0.0] * len(names)
        own = [*sums, *(count for counts in expert_counts for count in counts)]
        everywhere = iter(sum_floats(own, device=self._device.torch_device))
        totals = _Totals(*islice(everywhere, len(names)))
        if totals.tokens == 0:
            raise DataError("no target of this batch counts: all its weights are 0, on all ranks")
        by_layer = {layer: [int(n) for n in islice(everywhere, len(of))] for layer, of in enumerate(expert_counts)}
        return totals, {layer: counts for layer, counts in by_layer.items() if any(counts)}


def _losses(micro_batch: Batch, losses: Tensor, *, loss: Loss, further_weight: float) -> tuple[Tensor, Tensor, Said]:
    """What is trained on, how many targets count, and what `_totals` adds up; of a part of a micro-batch."""
    token_losses_BS, further_DBS = split_depths(losses)
    summed_loss, further = loss(token_losses_BS, micro_batch), further_DBS.float().sum()
    tokens = micro_batch.num_counted()
    further_tokens = micro_batch.further_weights_BSD
    said = {
        "loss": summed_loss.detach(),
        "tokens": tokens,
        "further_loss": further.detach(),
        "further_tokens": 0 if further_tokens is None else further_tokens.count_nonzero(),
    }
    if further_DBS.size(0):
        # Equations 24 and 25: a mean over depths, each of which counts the sequence's tokens as the main loss does.
        summed_loss = summed_loss + further_weight / further_DBS.size(0) * further
    return summed_loss, tokens, said
