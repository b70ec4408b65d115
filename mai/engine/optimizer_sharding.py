"""Fp32 weights and moments shared out (ZeRO-1, arXiv 1910.02054): Megatron's data-parallel wrapper and distributed
optimizer over torch's fused AdamW, in three steps that a guard can stand between.

    between steps   a rank holds whole weights and gradients, and a range of each parameter's fp32 weight and moments
    backward        a bucket of gradients is summed over the ranks while the layers before it compute
    update          every rank updates its range; the next forward pass gathers the weights, bucket by bucket

Used on one rank too, so that there is one path and one checkpoint format. `full_sharding.py` is the other way.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, ParamGroupOverride, ParamKey, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import ParamPredicate
from torch import Tensor

from mai.engine.shard import Shard
from mai.engine.sharded_state import blocks, buffer_shards
from mai.engine.sharding import allocate_states, global_norm
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
        self._optimizer = _optimizer(self.chunks, recipe)

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
        )

    def update(self, *, norm: float, clip_norm: float, learning_rate: float) -> None:
        for part in self._optimizer.chained_optimizers:
            for group in part.param_groups:
                group["lr"] = learning_rate
            if part.get_parameters():
                clip_grad_by_total_norm_fp32(part.get_parameters(), max_norm=clip_norm, total_norm=norm)
        self._optimizer.step_with_ready_grads()

    def updates_done(self) -> int:
        return next((int(state["step"].item()) for state in self._states()), 0)

    def set_updates_done(self, updates: int) -> None:
        for state in self._states():
            state["step"].fill_(updates)

    @torch.no_grad()
    def publish_main_weights(self) -> None:
        """Cast and gather them into the model."""
        for part in _with_states(self._optimizer):
            part._copy_main_params_to_model_params()
        for chunk in self.chunks:
            chunk.start_param_sync(force_sync=True)

    def shards(self) -> list[Shard]:
        owned = {
            parameter: (start, {"weight": main.detach(), **{name: state[name] for name in ("exp_avg", "exp_avg_sq")}})
            for parameter, start, main, state in _owned_ranges(self._optimizer)
        }
        return self._shards(owned) + buffer_shards(self._modules)

    def gradients(self) -> list[Shard]:
        owned = {}
        for parameter, start, main, _ in _owned_ranges(self._optimizer):
            assert main.grad is not None
            owned[parameter] = (start, {"gradient": main.grad})
        return self._shards(owned)

    def _states(self) -> Iterator[dict[str, Tensor]]:
        for part in _with_states(self._optimizer):
            yield from part.optimizer.state.values()

    def _shards(self, owned: dict[torch.nn.Parameter, tuple[int, dict[str, Tensor]]]) -> list[Shard]:
        """`owned`: parameter -> (start of the owned range, its tensors). The first copy answers for all."""
        shards = []
        for parameter, block_start, block in blocks(self._modules):
            if parameter not in owned:
                continue
            start, tensors = owned[parameter]
            stop = start + next(iter(tensors.values())).numel()
            block_stop = block_start + math.prod(block.shape)
            first, last = max(start, block_start), min(stop, block_stop)
            if first < last:
                pieces = {name: tensor[first - start : last - start] for name, tensor in tensors.items()}
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
        _refuse_foreign(part.optimizer)
        _prepare(part.optimizer)
    return optimizer


def _refuse_foreign(optimizer: torch.optim.Optimizer) -> None:
    # megatron/core/optimizer/__init__.py takes the FusedAdam of Transformer Engine or apex wherever one can be
    # imported; they count their steps elsewhere than the checkpoint looks.
    if type(optimizer) is not torch.optim.AdamW:
        raise EnvironmentMismatchError(
            f"Megatron-Core found {type(optimizer).__module__}.{type(optimizer).__name__} in this environment and "
            "would train with it, and mai trains with torch's AdamW so far; run in an environment without "
            "transformer_engine and apex (make setup makes one)"
        )


def _prepare(adamw: torch.optim.AdamW) -> None:
    for group in adamw.param_groups:
        # Megatron makes AdamW with torch's defaults, which on a CPU loop over the parameters in Python.
        group["fused"], group["foreach"] = True, False
        group["weight_decay"] *= group["wd_mult"]
    allocate_states(adamw)


def _with_states(optimizer: MegatronOptimizer) -> Iterator[Any]:
    """The distributed optimizers for dense and for expert weights, where this rank has such."""
    yield from (part for part in optimizer.chained_optimizers if not part.is_stub_optimizer)


def _owned_ranges(
    optimizer: MegatronOptimizer,
) -> Iterator[tuple[torch.nn.Parameter, int, Tensor, dict[str, Tensor]]]:
    """Each parameter of which this rank owns a range, the range's start, its fp32 weights, and their AdamW state."""
    for part in _with_states(optimizer):
        pairs = [
            *zip(part.model_float16_groups, part.shard_fp32_from_float16_groups, strict=True),
            *zip(part.model_fp32_groups, part.shard_fp32_groups, strict=True),
        ]
        for parameters, main_parameters in pairs:
            for parameter, main in zip(parameters, main_parameters, strict=True):
                start = part._get_model_param_range_map(parameter)["param"].start
                yield parameter, start, main, part.optimizer.state[main]
