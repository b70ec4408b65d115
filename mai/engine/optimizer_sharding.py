"""Fp32 weights and the optimizer's states shared out (ZeRO-1, arXiv 1910.02054): Megatron's data-parallel wrapper, and
the ranges and buffers of its distributed optimizer, in three steps that a guard can stand between.

    between steps   a rank holds whole weights and gradients, and a range of each parameter's fp32 weight and states
    backward        a bucket of gradients is summed over the ranks while the layers before it compute
    update          every rank updates its range; the next forward pass gathers the weights, bucket by bucket

Used on one rank too, so that there is one path and one checkpoint format. `full_sharding.py` is the other way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, ParamGroupOverride, ParamKey, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamPredicate
from torch import Tensor

from mai.engine.operations import choose
from mai.engine.shard import WEIGHT, Shard
from mai.engine.sharded_state import UpdateRules, blocks, buffer_shards
from mai.engine.sharding import Owned, Updates, global_norm, new_states
from mai.engine.translate import data_parallel_config, optimizer_config
from mai.errors import EnvironmentMismatchError
from mai.optimizer.optimizers import Optimizer, optimizer_of
from mai.optimizer.parameter_groups import GroupRule, rule_of
from mai.parallel.layout import Layout
from mai.recipe import Recipe


class OptimizerSharding:
    """A `sharding.Sharding`; what each verb does stands there."""

    def __init__(
        self, modules: Sequence[GPTModel], rules: UpdateRules, recipe: Recipe, layout: Layout, *, copy: int
    ) -> None:
        """`copy`: which of the copies that hybrid sharding keeps equal this rank belongs to. All ranks must call."""
        self._virtual_stages, self._copy = modules, copy
        self.wrapped_stages = [
            # Buckets of later virtual stages are not worth cutting: their sums hide behind the first one's compute.
            DistributedDataParallel(
                module.config, data_parallel_config(layout), module, disable_bucketing=virtual_stage > 0
            )
            for virtual_stage, module in enumerate(modules)
        ]
        self._sum_of_squares = choose(recipe).sum_of_squares
        self._megatron = _megatron_optimizer(self.wrapped_stages, recipe, rules)
        self._ranges = list(_owned_ranges(self._megatron, optimizer_of(recipe.optimizer), rules))
        self.updates = Updates(recipe, [of.owned for of in self._ranges])

    def zero_gradients(self) -> None:
        for virtual_stage in self.wrapped_stages:
            virtual_stage.zero_grad_buffer()
        self._megatron.zero_grad()

    def finish_gradients(self) -> None:
        # Brings the summed gradients to the fp32 shards.
        self._megatron.prepare_grads()
        self.updates.forget_frozen_gradients()

    def gradient_norm(self) -> float:
        return global_norm(
            [
                gradient
                for part in self._megatron.chained_optimizers
                for gradient in part.get_main_grads_for_grad_norm()
            ],
            device=self._megatron.get_loss_scale().device,
            group=self._megatron.get_grad_stats_parallel_group(),
            sum_of_squares=self._sum_of_squares,
        )

    @torch.no_grad()
    def publish_main_weights(self) -> None:
        """Cast and gather them into the model."""
        for part in _with_states(self._megatron):
            part._copy_main_params_to_model_params()
        for virtual_stage in self.wrapped_stages:
            virtual_stage.start_param_sync(force_sync=True)

    def shards(self) -> list[Shard]:
        tensors = {of.parameter: {WEIGHT: of.owned.weight.detach(), **of.owned.states} for of in self._ranges}
        return self._shards(tensors) + buffer_shards(self._virtual_stages)

    def gradients(self) -> list[Shard]:
        tensors = {}
        for of in self._ranges:
            assert of.owned.weight.grad is not None
            tensors[of.parameter] = {"gradient": of.owned.weight.grad}
        return self._shards(tensors)

    def _shards(self, tensors: dict[torch.nn.Parameter, dict[str, Tensor]]) -> list[Shard]:
        """`tensors`: of each parameter, over the range that this rank owns. The first copy answers for all."""
        starts = {of.parameter: of.start for of in self._ranges}
        shards = []
        for parameter, block_start, block in blocks(self._virtual_stages):
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


def _megatron_optimizer(
    wrapped_stages: list[DistributedDataParallel], recipe: Recipe, rules: Mapping[torch.nn.Parameter, GroupRule]
) -> MegatronOptimizer:
    """Megatron's distributed optimizer, for its ranges, buffers and copies; its own update is never called.

    Raises EnvironmentMismatchError for Transformer Engine's optimizer, whose other effects nobody tried."""
    usual = rule_of("", (1, 1), recipe.optimizer)
    # Ordered, because the ranks compare their groups, and the norm is summed in the order of the groups.
    others = sorted({*rules.values()} - {usual})
    optimizer = get_megatron_optimizer(
        optimizer_config(recipe.optimizer, recipe.precision),
        wrapped_stages,
        config_overrides={_key(rule, rules): ParamGroupOverride(**asdict(rule)) for rule in others},
        use_gloo_process_groups=False,
    )
    if any(type(part.optimizer).__module__.startswith("transformer_engine") for part in _with_states(optimizer)):
        raise EnvironmentMismatchError(
            "Megatron-Core found Transformer Engine in this environment and would train with its parts, which mai does "
            "not do; run in an environment without transformer_engine (make setup makes one)"
        )
    return optimizer


def _key(rule: GroupRule, rules: Mapping[torch.nn.Parameter, GroupRule]) -> ParamKey:
    """Megatron's way to name the parameters that follow the rule."""
    return ParamKey(predicate=ParamPredicate(name=str(rule), fn=lambda parameter: rules[parameter] == rule))


def _with_states(optimizer: MegatronOptimizer) -> Iterator[Any]:
    """The distributed optimizers for dense and for expert weights, where this rank has such."""
    yield from (part for part in optimizer.chained_optimizers if not part.is_stub_optimizer)


@dataclass(frozen=True, slots=True)
class _Range:
    """The range of a parameter that this rank updates."""

    parameter: torch.nn.Parameter
    start: int
    owned: Owned
    """Flat; the gradient is there after `finish_gradients`."""


def _owned_ranges(
    megatron: MegatronOptimizer, optimizer: Optimizer, rules: Mapping[torch.nn.Parameter, GroupRule]
) -> Iterator[_Range]:
    for part in _with_states(megatron):
        pairs = [
            *zip(part.model_float16_groups, part.shard_fp32_from_float16_groups, strict=True),
            *zip(part.model_fp32_groups, part.shard_fp32_groups, strict=True),
        ]
        for parameters, weights in pairs:
            for parameter, weight in zip(parameters, weights, strict=True):
                start = part._get_model_param_range_map(parameter)["param"].start
                copy = parameter.detach().view(-1)[start : start + weight.numel()]
                owned = Owned(
                    weight=weight,
                    copy=None if copy.dtype == torch.float32 else copy,
                    states=new_states(weight, optimizer),
                    rule=rules[parameter],
                )
                yield _Range(parameter, start, owned)
