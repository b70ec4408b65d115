"""How many bytes every pipeline stage's ranks need, item by item.

What stays (weights, gradients' sums, optimizer, buffers) and what the micro-batches in flight keep are added up; on top
comes the largest of what passes: the loss, a layer's backward pass, rows on their way to experts and back, or the
gradient of the embedding. At the optimizer's step nothing of a micro-batch is left, and every software here updates in
place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.plan.memory.in_flight import in_flight
from mai.plan.memory.kept import input_bytes, kept_of_virtual_stage
from mai.plan.memory.peaks import backward_bytes, embedding_gradient_bytes, expert_forward_bytes, loss_bytes
from mai.plan.memory.states import buffer_bytes, layers_of, num_numbers, state_bytes
from mai.plan.model.architecture import Layer
from mai.plan.model.weights import Held
from mai.plan.setting.setting import Setting

_FP32 = 4
_GIB = 2**30

RESERVED_OVER_ALLOCATED = 1.093
"""What PyTorch's allocator takes from the driver over what it hands out: the most of 152 ranks of SimuMax's B200 runs,
whose mean is 1.045. A plan that fits must do so on every rank."""

CONTEXT_GIB = 1.5
"""Assumed, of CUDA's context, its libraries' code and NCCL's buffers, outside of PyTorch's allocator."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """What one rank of a stage needs; all ranks of a stage need the same, experts' imbalance aside."""

    stage: int
    items_bytes: Mapping[str, int]
    """What PyTorch's allocator hands out when most is in use."""
    allocated_bytes: int
    """All of them."""
    outside_bytes: int
    """What the driver and NCCL take, and what the allocator holds back in pieces."""
    needed_bytes: int
    """What it needs of the GPU's memory: `allocated_bytes` and `outside_bytes`."""
    host_during_save_bytes: int
    """What writing a checkpoint takes of the host's memory: mai copies one tensor at a time. The GPU holds no more."""


@dataclass(frozen=True, slots=True)
class Memory:
    usable_bytes: int | None
    """That the GPU gives to a process; None where nobody published it."""
    most_bytes: int
    """Those or, where nobody published them, all that the GPU has."""
    fits: bool
    largest_stage: int
    stages: tuple[RankMemory, ...]

    @property
    def largest(self) -> RankMemory:
        """The rank that needs most."""
        return self.stages[self.largest_stage]

    @property
    def missing_bytes(self) -> int:
        """What the largest rank needs and the GPU has not."""
        return max(0, self.largest.needed_bytes - self.most_bytes)


def memory(setting: Setting) -> Memory:
    """What every stage needs, on its rank whose experts get most tokens."""
    gpu = setting.cluster.gpu
    stages = tuple(rank_memory(setting, stage) for stage in range(setting.parallel.pipeline))
    largest, most = max(stages, key=lambda rank: rank.needed_bytes), round(gpu.most_memory_gib * _GIB)
    return Memory(
        usable_bytes=None if gpu.usable_memory_gib is None else round(gpu.usable_memory_gib * _GIB),
        most_bytes=most,
        fits=largest.needed_bytes <= most,
        largest_stage=largest.stage,
        stages=stages,
    )


def rank_memory(setting: Setting, stage: int) -> RankMemory:
    """What one stage's ranks need."""
    virtual_stages, rank = setting.stages[stage], setting.held_on(stage)
    items = state_bytes(setting, rank, setting.shards)
    items["buffers"] = buffer_bytes(setting, virtual_stages)
    items |= _in_a_step(setting, stage)
    allocated = sum(items.values())
    outside = round(allocated * (RESERVED_OVER_ALLOCATED - 1) + CONTEXT_GIB * _GIB)
    return RankMemory(
        stage,
        items_bytes={item: number for item, number in items.items() if number},
        allocated_bytes=allocated,
        outside_bytes=outside,
        needed_bytes=allocated + outside,
        host_during_save_bytes=_largest_shard(setting, rank) * _FP32,
    )


def _in_a_step(setting: Setting, stage: int) -> dict[str, int]:
    """What micro-batches in flight keep, and the largest of what passes."""
    virtual_stages, parallel = setting.stages[stage], setting.parallel
    states = in_flight(parallel.schedule, stage, setting.num_micro_batches)
    kept = [kept_of_virtual_stage(setting, each) for each in virtual_stages]
    activations = max(sum(count * each for count, each in zip(state, kept, strict=True)) for state in states)
    layers = layers_of(setting, virtual_stages)
    passing = _passing(setting, set(layers))
    if any(each.has_loss for each in virtual_stages):
        passing["loss"] = loss_bytes(setting)
    if virtual_stages[0].has_embedding:
        # Its layers have let go of theirs by then.
        passing["embedding's gradient"] = embedding_gradient_bytes(setting) - kept[0]
    largest = max(passing, key=lambda item: passing[item], default="loss")
    return {
        "activations": activations,
        "gathered weights": _gathered(setting, layers) if parallel.sharding == "full" else 0,
        # The gradient that went to the stage before is there until the next one is.
        "sent gradient": input_bytes(setting) if stage > 0 else 0,
        largest: max(0, passing.get(largest, 0)),
    }


def _passing(setting: Setting, layers: set[Layer]) -> dict[str, int]:
    """The largest of each kind, over layers."""
    found: dict[str, int] = {}
    for layer in layers:
        of_layer = {
            "a layer's backward pass": backward_bytes(setting, layer),
            "experts' rows": expert_forward_bytes(setting, layer),
        }
        found = {item: max(number, found.get(item, 0)) for item, number in of_layer.items()}
    return found


def _gathered(setting: Setting, layers: list[Layer]) -> int:
    """Whole weights of the unit that computes and of the next, and the first one's gradients, in the compute format and
    in fp32 on their way to the ranks (torch.distributed.fsdp, as mai/engine/full_sharding.py cuts the model)."""
    end = setting.architecture.output.num_parameters_on(setting.cut.tensor)
    units = sorted([end, *(num_numbers(setting, layer) for layer in layers)])
    return setting.element_bytes * sum(units[-2:]) + (setting.element_bytes + _FP32) * units[-1]


def _largest_shard(setting: Setting, rank: Held) -> int:
    """Numbers of the largest piece of a parameter that a rank may own; a matrix of all experts is one parameter."""
    cut, (shards, expert_shards) = setting.cut, setting.shards
    dense, grouped = setting.architecture.output.num_parameters_on(cut.tensor), 0
    for layer in set(setting.architecture.layers):
        dense = max(dense, *(product.num_parameters_on(cut.tensor) for product in layer.products()))
        if layer.experts is not None:
            of_one = max(product.num_parameters_on(cut.expert_tensor) for product in layer.experts.network.products)
            grouped = max(grouped, layer.experts.number // cut.expert * of_one)
    return max(min(dense, -(-rank.dense // shards)), min(grouped, -(-rank.experts // expert_shards)))
