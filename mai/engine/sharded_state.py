"""What this rank holds of the model and its optimizer, in global terms: the checkpoint's view of the engine.

Megatron's `sharded_state_dict` says which block of which global tensor each local parameter is; of each flattened local
parameter a rank owns a contiguous range (`optimizer_sharding.py`, `full_sharding.py`). A Shard is the meeting of both:
a range of a block of a named global tensor. It knows no ranks, so any layout can read what another one wrote.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from mai.engine.shard import WEIGHT, Block, Shard
from mai.optimizer.parameter_groups import GroupRule, rule_of
from mai.recipe import OptimizerConfig


def blocks(model: Sequence[MegatronModule]) -> Iterator[tuple[torch.nn.Parameter, int, Block]]:
    """Every parameter's blocks, with the place in the flattened parameter where each begins."""
    for virtual_stage in model:
        sharded = _sharded(virtual_stage)
        for name, parameter in virtual_stage.named_parameters():
            entry = sharded[name]
            parts = entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]
            start = 0
            for part in parts:
                yield parameter, start, _block(part)
                start += math.prod(part.local_shape)
            assert start == parameter.numel(), f"{name}: blocks hold {start} of {parameter.numel()} elements"


UpdateRules = Mapping[torch.nn.Parameter, GroupRule]


def update_rules(model: Sequence[MegatronModule], optimizer: OptimizerConfig) -> UpdateRules:
    """The rule of update of every parameter, before any of them is shared out over data-parallel ranks."""
    return {parameter: rule_of(block.name, parameter.shape, optimizer) for parameter, _, block in blocks(model)}


def buffer_blocks(model: Sequence[MegatronModule]) -> Iterator[tuple[Tensor, int, Block]]:
    """What the model keeps besides parameters, whole on every rank of its layer: the experts' selection bias."""
    for virtual_stage in model:
        sharded = _sharded(virtual_stage)
        for name, buffer in virtual_stage.named_buffers():
            if name in sharded:
                part = sharded[name]
                assert buffer.dtype == torch.float32, f"{name}: a checkpoint holds fp32"
                # No optimizer divides a buffer over the data-parallel ranks: one of them answers for it.
                yield buffer, 0, replace(_block(part), is_replica=any(part.replica_id))


def buffer_shards(model: Sequence[MegatronModule]) -> list[Shard]:
    """The same, as live tensors."""
    return [Shard(block, 0, buffer.numel(), {WEIGHT: buffer}) for buffer, _, block in buffer_blocks(model)]


def _sharded(virtual_stage: MegatronModule) -> dict[str, Any]:
    return virtual_stage.sharded_state_dict(metadata={"non_homogeneous_layers": True})  # type: ignore[no-any-return]


def _block(part: ShardedTensor) -> Block:
    # Megatron's replica id is (pipeline copy, tensor copy, data copy); the optimizer's ranges already divide the last.
    is_replica = any(part.replica_id[:2]) if isinstance(part.replica_id, tuple) else part.replica_id != 0
    return Block(
        name=part.key,
        global_shape=tuple(part.global_shape),
        offset=tuple(part.global_offset),
        # An expert's matrix is one of the first axis of its global tensor, which the local parameter lacks.
        shape=(1,) * part.prepend_axis_num + tuple(part.local_shape),
        is_replica=is_replica,
    )


def weight_shards(model: Sequence[MegatronModule]) -> list[Shard]:
    """Whole blocks with fp32 buffers of their own, for a model without optimizer; see `take_weights`."""
    return [
        Shard(block, 0, size, {WEIGHT: torch.empty(size, dtype=torch.float32)})
        for _, _, block in (*blocks(model), *buffer_blocks(model))
        for size in [math.prod(block.shape)]
    ]


@torch.no_grad()
def take_weights(model: Sequence[MegatronModule], shards: list[Shard]) -> None:
    """Copy loaded `weight_shards` into the model's parameters, in their dtype."""
    for (tensor, start, _), shard in zip((*blocks(model), *buffer_blocks(model)), shards, strict=True):
        tensor.view(-1)[start : start + shard.stop].copy_(shard.tensors[WEIGHT])
