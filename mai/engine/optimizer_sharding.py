"""Fp32 weights and moments shared out (ZeRO-1, arXiv 1910.02054): Megatron's data-parallel wrapper and distributed
optimizer over torch's fused AdamW, in three steps that a guard can stand between.

    between steps   a rank holds whole weights and gradients, and a range of each parameter's fp32 weight and moments
    backward        a bucket of gradients is summed over the ranks while the layers before it compute
    update          every rank updates its range; the next forward pass gathers the weights, bucket by bucket

Used on one rank too, so that there is one path and one checkpoint format. `full_sharding.py` is the other way.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, ParamGroupOverride, ParamKey, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import ParamPredicate
from torch import Tensor

from mai.engine.operations import choose
from mai.engine.shard import Shard
from mai.engine.sharded_state import blocks, buffer_shards
from mai.engine.sharding import allocate_states, clip_factor, global_norm, update_each
from mai.engine.translate import data_parallel_config, optimizer_config
from mai.errors import EnvironmentMismatchError
from mai.optimizer.groups import decays
from mai.parallel.layout import Layout
from mai.recipe import Recipe


class OptimizerSharding:
    """A `sharding.Sharding`; what each verb does stands there."""

    def __init__(self, modules: Sequence[GPTModel], recipe: Recipe, layout: Layout, *, copy: int) -> None:
        """`copy`: which of the copies that hybrid sharding keeps equal this rank belongs to. All ranks must call."""
        self._modules, self._copy = modules, copy
        self.chunks = [
            # Buckets of later virtual stages are not worth cutting: their sums hide behind the first one's compute.
            DistributedDataParallel(
                module.config, data_parallel_config(layout), module, disable_bucketing=virtual_stage > 0
            )
            for virtual_stage, module in enumerate(modules)
        ]
        self._operations = choose(recipe)
        self._optimizer = _optimizer(self.chunks, recipe)
        self._owned = list(_owned_ranges(self._optimizer))
        self._copies = {own.weight: own.copy for own in self._owned if own.copy is not None}
        self._updates = 0

    def zero_gradients(self) -> None:
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()

    def gradient_norm(self) -> float:
        # Brings the summed gradients to the fp32 shards.
        self._optimizer.prepare_grads()
        return global_norm(
            [
                gradient
                for part in self._optimizer.chained_optimizers
                for gradient in part.get_main_grads_for_grad_norm()
            ],
            device=self._optimizer.get_loss_scale().device,
            group=self._optimizer.get_grad_stats_parallel_group(),
            sum_of_squares=self._operations.sum_of_squares,
        )

    @torch.no_grad()
    def update(self, *, norm: float, clip_norm: float, learning_rate: float) -> None:
        self._updates += 1
        if self._operations.adamw is None:
            self._update_in_parts(norm=norm, clip_norm=clip_norm, learning_rate=learning_rate)
            return
        for part in _with_states(self._optimizer):
            update_each(
                part.optimizer,
                self._copies,
                kernel=self._operations.adamw,
                learning_rate=learning_rate,
                gradient_factor=clip_factor(norm=norm, clip_norm=clip_norm),
                number=self._updates,
            )

    def _update_in_parts(self, *, norm: float, clip_norm: float, learning_rate: float) -> None:
        for part in self._optimizer.chained_optimizers:
            for group in part.param_groups:
                group["lr"] = learning_rate
            if part.get_parameters():
                clip_grad_by_total_norm_fp32(part.get_parameters(), max_norm=clip_norm, total_norm=norm)
        self._optimizer.step_with_ready_grads()

    def updates_done(self) -> int:
        return self._updates

    def set_updates_done(self, updates: int) -> None:
        self._updates = updates
        for own in self._owned:
            own.state["step"].fill_(updates)

    @torch.no_grad()
    def publish_main_weights(self) -> None:
        """Cast and gather them into the model."""
        for part in _with_states(self._optimizer):
            part._copy_main_params_to_model_params()
        for chunk in self.chunks:
            chunk.start_param_sync(force_sync=True)

    def shards(self) -> list[Shard]:
        tensors = {
            own.parameter: {
                "weight": own.weight.detach(),
                **{name: own.state[name] for name in ("exp_avg", "exp_avg_sq")},
            }
            for own in self._owned
        }
        return self._shards(tensors) + buffer_shards(self._modules)

    def gradients(self) -> list[Shard]:
        tensors = {}
        for own in self._owned:
            assert own.weight.grad is not None
            tensors[own.parameter] = {"gradient": own.weight.grad}
        return self._shards(tensors)

    def _shards(self, tensors: dict[torch.nn.Parameter, dict[str, Tensor]]) -> list[Shard]:
        """`tensors`: of each parameter, over the range that this rank owns. The first copy answers for all."""
        starts = {own.parameter: own.start for own in self._owned}
        shards = []
        for parameter, block_start, block in blocks(self._modules):
            if parameter not in tensors:
                continue
            start = starts[parameter]
            stop = start + next(iter(tensors[parameter].values())).numel()
            block_stop = block_start + math.prod(block.shape)
            first, last = max(start, block_start), min(stop, block_stop)
            if first < last:
                pieces = {name: tensor[first - start : last - start] for name, tensor in tensors[parameter].items()}
                shards.append(Shard(block, first - block_start, last - block_start, pieces))
        return shards if self._copy == 0 else [shard.as_replica() for shard in shards]


def _optimizer(chunks: list[DistributedDataParallel], recipe: Recipe) -> MegatronOptimizer:
    no_decay = ParamKey(predicate=ParamPredicate(name="no_decay", fn=lambda parameter: not decays(parameter.shape)))
    optimizer = get_megatron_optimizer(
        optimizer_config(recipe.optimizer, recipe.precision),
        chunks,
        config_overrides={no_decay: ParamGroupOverride(wd_mult=0.0)},
        use_gloo_process_groups=False,
    )
    for part in _with_states(optimizer):
        part.optimizer = _torch_adamw(part.optimizer)
    return optimizer


def _torch_adamw(adamw: torch.optim.Optimizer) -> torch.optim.AdamW:
    """The optimizer whose groups and states are read here, whichever Megatron-Core made: it takes the FusedAdam of apex
    wherever that can be imported (megatron/core/optimizer/__init__.py), which counts its steps elsewhere than the
    checkpoint looks. Raises EnvironmentMismatchError for Transformer Engine's, whose other effects nobody tried."""
    if type(adamw).__module__.startswith("transformer_engine"):
        raise EnvironmentMismatchError(
            "Megatron-Core found Transformer Engine in this environment and would train with its parts, which mai does "
            "not do; run in an environment without transformer_engine (make setup makes one)"
        )
    ours = torch.optim.AdamW([torch.zeros(1)])
    for group in adamw.param_groups:
        decay = group["weight_decay"] * group["wd_mult"]
        # Neither one kernel nor a list of them is torch's default, a loop in Python over the parameters of a CPU is.
        group.update({**ours.defaults, **group, "fused": True, "foreach": False, "weight_decay": decay})
    # Not given to AdamW itself, which refuses Megatron's shards: they are views.
    ours.param_groups = adamw.param_groups
    allocate_states(ours)
    return ours


def _with_states(optimizer: MegatronOptimizer) -> Iterator[Any]:
    """The distributed optimizers for dense and for expert weights, where this rank has such."""
    yield from (part for part in optimizer.chained_optimizers if not part.is_stub_optimizer)


@dataclass(frozen=True, slots=True)
class _Owned:
    """The range of a parameter that this rank updates."""

    parameter: torch.nn.Parameter
    start: int
    weight: Tensor
    """fp32, flat; its gradient is there after `gradient_norm`."""
    copy: Tensor | None
    """The same range of the parameter that the model computes with; None where that is `weight` itself."""
    state: dict[str, Tensor]


def _owned_ranges(optimizer: MegatronOptimizer) -> Iterator[_Owned]:
    for part in _with_states(optimizer):
        pairs = [
            *zip(part.model_float16_groups, part.shard_fp32_from_float16_groups, strict=True),
            *zip(part.model_fp32_groups, part.shard_fp32_groups, strict=True),
        ]
        for parameters, weights in pairs:
            for parameter, weight in zip(parameters, weights, strict=True):
                start = part._get_model_param_range_map(parameter)["param"].start
                copy = parameter.detach().view(-1)[start : start + weight.numel()]
                yield _Owned(
                    parameter,
                    start,
                    weight,
                    None if copy.dtype == torch.float32 else copy,
                    part.optimizer.state[weight],
                )
