"""What this rank holds of the model and its optimizer, in global terms: the checkpoint's view of the engine.

Megatron's `sharded_state_dict` says which block of which global tensor each local parameter is; the distributed
optimizer owns a contiguous range of each flattened local parameter. A Shard is the meeting of both: a range of a
block of a named global tensor. It knows no ranks, so any layout can read what another one wrote.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A box of a global tensor that one local parameter, or a half of it, holds whole."""

    name: str
    """Global name, layers counted over all stages."""
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    """Where the box begins in the global tensor."""
    shape: tuple[int, ...]
    is_replica: bool
    """Another tensor-parallel or pipeline rank holds the same box and answers for it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Elements `start` to `stop` of the flattened block, as live 1-D tensors: write into them to load."""

    block: Block
    start: int
    stop: int
    tensors: dict[str, Tensor]
    """By state name: "weight" (fp32), and for training "exp_avg" and "exp_avg_sq" (fp32)."""


def blocks(model: MegatronModule) -> Iterator[tuple[torch.nn.Parameter, int, Block]]:
    """Every parameter's blocks, with the place in the flattened parameter where each begins."""
    sharded = model.sharded_state_dict(metadata={"non_homogeneous_layers": True})
    for name, parameter in model.named_parameters():
        entry = sharded[name]
        parts = entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]
        start = 0
        for part in parts:
            yield parameter, start, _block(part)
            start += math.prod(part.local_shape)
        assert start == parameter.numel(), f"{name}: blocks hold {start} of {parameter.numel()} elements"


def _block(part: ShardedTensor) -> Block:
    assert part.prepend_axis_num == 0, f"{part.key}: layers must be separate tensors"
    # Megatron's replica id is (pipeline copy, tensor copy, data copy); the optimizer's ranges already divide the last.
    is_replica = any(part.replica_id[:2]) if isinstance(part.replica_id, tuple) else part.replica_id != 0
    return Block(
        name=part.key,
        global_shape=tuple(part.global_shape),
        offset=tuple(part.global_offset),
        shape=tuple(part.local_shape),
        is_replica=is_replica,
    )


def weight_shards(model: MegatronModule) -> list[Shard]:
    """Whole blocks with fp32 buffers of their own, for a model without optimizer; see `take_weights`."""
    return [
        Shard(block, 0, size, {"weight": torch.empty(size, dtype=torch.float32)})
        for _, _, block in blocks(model)
        for size in [math.prod(block.shape)]
    ]


@torch.no_grad()
def take_weights(model: MegatronModule, shards: list[Shard]) -> None:
    """Copy loaded `weight_shards` into the model's parameters, in their dtype."""
    for (parameter, start, _), shard in zip(blocks(model), shards, strict=True):
        parameter.view(-1)[start : start + shard.stop].copy_(shard.tensors["weight"])


def training_shards(model: MegatronModule, optimizer: MegatronOptimizer) -> list[Shard]:
    """This rank's ranges with their fp32 weights and moments, as the optimizer holds them; replicas included."""
    owned = {}
    for part in optimizer.chained_optimizers:
        owned.update(_owned_ranges(part))
    shards = []
    for parameter, block_start, block in blocks(model):
        if parameter not in owned:
            continue
        start, tensors = owned[parameter]
        stop = start + tensors["weight"].numel()
        block_stop = block_start + math.prod(block.shape)
        first, last = max(start, block_start), min(stop, block_stop)
        if first < last:
            pieces = {name: tensor[first - start : last - start] for name, tensor in tensors.items()}
            shards.append(Shard(block, first - block_start, last - block_start, pieces))
    return shards


def _owned_ranges(optimizer: MegatronOptimizer) -> dict[torch.nn.Parameter, tuple[int, dict[str, Tensor]]]:
    """Of one DistributedOptimizer: parameter -> (start of the owned range, its tensors)."""
    if optimizer.is_stub_optimizer:
        return {}
    owned = {}
    pairs = [
        *zip(optimizer.model_float16_groups, optimizer.shard_fp32_from_float16_groups, strict=True),
        *zip(optimizer.model_fp32_groups, optimizer.shard_fp32_groups, strict=True),
    ]
    for parameters, main_parameters in pairs:
        for parameter, main in zip(parameters, main_parameters, strict=True):
            start = optimizer._get_model_param_range_map(parameter)["param"].start
            state = optimizer.optimizer.state[main]
            tensors = {"weight": main.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
            owned[parameter] = (start, tensors)
    return owned
