"""How many bytes every pipeline stage's ranks need, item by item.

What stays (weights, gradients' sums, optimizer, buffers) and what every micro-batch in flight keeps are added up; on top
comes the largest of what passes: the loss, a layer's backward pass, or the gradient of the embedding's look-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.parallel.stages import Part
from mai.plan.architecture import Layer, Product
from mai.plan.in_flight import in_flight
from mai.plan.kept import input_bytes, layer_bytes, score_bytes
from mai.plan.peaks import (
    embedding_gradient_bytes,
    expert_forward_bytes,
    layer_backward_bytes,
    loss_bytes,
    stand_in_bytes,
)
from mai.plan.setting import Setting
from mai.plan.weights import Held, held

_FP32 = 4
_MIB, _GIB = 2**20, 2**30

RESERVED_OVER_ALLOCATED = 1.093
"""What PyTorch's allocator takes from the driver over what it hands out: the most of 152 ranks of SimuMax's B200 runs,
whose mean is 1.045. A plan that fits must do so on every rank."""

CONTEXT_GIB = 1.5
"""Of CUDA's context, its libraries' code and NCCL's buffers, outside of PyTorch's allocator."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of one rank of a stage, in bytes; all ranks of a stage need the same, experts' imbalance aside."""

    stage: int
    items: Mapping[str, int]
    """What PyTorch's allocator hands out when most is in use; together `allocated`."""
    outside: int
    """Of the driver, of NCCL, and what the allocator holds back in pieces."""
    host_during_save: int
    """Of the host's memory, while a checkpoint is written: mai copies one tensor at a time. The GPU holds no more."""

    @property
    def allocated(self) -> int:
        return sum(self.items.values())

    @property
    def needed(self) -> int:
        """Of the GPU's memory."""
        return self.allocated + self.outside


@dataclass(frozen=True, slots=True)
class Memory:
    stages: tuple[RankMemory, ...]
    usable: int | None
    """Bytes that the GPU gives to a process; None where nobody published it."""

    @property
    def largest(self) -> RankMemory:
        return max(self.stages, key=lambda rank: rank.needed)

    @property
    def fits(self) -> bool:
        return self.usable is None or self.largest.needed <= self.usable


def memory(setting: Setting) -> Memory:
    """Of every stage, on its rank whose experts get most tokens."""
    usable = setting.cluster.gpu.usable_memory_gib
    return Memory(
        stages=tuple(rank_memory(setting, stage) for stage in range(setting.parallel.pipeline)),
        usable=None if usable is None else round(usable * _GIB),
    )


def rank_memory(setting: Setting, stage: int) -> RankMemory:
    """Of one stage."""
    parts, parallel = setting.stages[stage], setting.parallel
    holds = held(
        setting.architecture,
        parts,
        tensor=parallel.tensor,
        expert=parallel.expert,
        expert_tensor=parallel.expert_tensor,
    )
    items = _states(setting, holds) | {"buffers": _buffers(setting, parts)} | _in_a_step(setting, stage)
    allocated = sum(items.values())
    outside = round(allocated * (RESERVED_OVER_ALLOCATED - 1)) + round(CONTEXT_GIB * _GIB)
    return RankMemory(
        stage,
        {item: number for item, number in items.items() if number},
        outside,
        _largest_tensor(setting, holds) * _FP32,
    )


def _states(setting: Setting, rank: Held) -> dict[str, int]:
    """Weights, sums of gradients and the optimizer's fp32 weights and moments."""
    parallel, layout, holds = setting.parallel, setting.layout, setting.software.holds
    shards = layout.context * layout.data // layout.sharding_copies
    expert_shards = max(1, layout.expert_data // layout.sharding_copies)
    shared_out = rank.dense / shards + rank.experts / expert_shards
    # Where the model computes in fp32, its weights are the optimizer's.
    optimizer = holds.optimizer_bytes - _FP32 * (setting.element_bytes == _FP32)
    if parallel.sharding == "full":
        return {
            "gradients": round(holds.gradient_bytes * shared_out),
            "optimizer": round(holds.optimizer_bytes * shared_out),
        }
    return {
        "weights": setting.element_bytes * rank.all,
        "gradients": (holds.gradient_bytes + holds.own_gradient_bytes) * rank.all,
        "optimizer": round(optimizer * shared_out),
    }


def _buffers(setting: Setting, parts: tuple[Part, ...]) -> int:
    """What stays besides: stand-ins for gradients, fp8 copies of weights, the output layer's input, workspaces."""
    cut, holds, architecture = setting.cut, setting.software.holds, setting.architecture
    has_loss = any(part.has_loss for part in parts)
    buffers = holds.workspace_mib * _MIB
    if any(layer.experts for layer in _layers(setting, parts)):
        buffers += holds.expert_workspace_mib * _MIB
    if holds.stand_ins_stay:
        ends = (architecture.output,) if has_loss else ()
        shapes = stand_in_bytes(setting, ends, tensor=cut.tensor)
        for layer in set(_layers(setting, parts)):
            shapes |= stand_in_bytes(setting, _matrices(layer), tensor=cut.tensor)
            if layer.experts is not None:
                shapes |= stand_in_bytes(setting, layer.experts.network.products, tensor=cut.expert_tensor)
        buffers += sum(shapes.values())
    if setting.precision in ("fp8", "fp4"):
        numbers = sum(_num_numbers(setting, layer) for layer in _layers(setting, parts))
        buffers += holds.fp8_weight_bytes * numbers
    if holds.gathers_once and has_loss and cut.sequence:
        buffers += cut.tokens * architecture.hidden * cut.element_bytes
    return buffers


def _layers(setting: Setting, parts: tuple[Part, ...]) -> list[Layer]:
    layers = [setting.architecture.layers[number] for part in parts for number in part.layers]
    if any(part.has_loss for part in parts):
        layers += setting.architecture.layers[-1:] * setting.architecture.depths
    return layers


def _matrices(layer: Layer) -> tuple[Product, ...]:
    """Of every token, without the router."""
    router = layer.experts.router if layer.experts is not None else None
    return tuple(product for product in layer.products() if product is not router)


def _num_numbers(setting: Setting, layer: Layer) -> int:
    """Of a layer's matrices on a rank."""
    cut = setting.cut
    experts = 0
    if layer.experts is not None:
        experts = layer.experts.num_parameters_on(expert=cut.expert, expert_tensor=cut.expert_tensor)
    return experts + sum(product.num_parameters_on(cut.tensor) for product in _matrices(layer))


def _in_a_step(setting: Setting, stage: int) -> dict[str, int]:
    """What micro-batches in flight keep, and the largest of what passes."""
    parts, parallel, holds = setting.stages[stage], setting.parallel, setting.software.holds
    states = in_flight(
        stage,
        pipeline=parallel.pipeline,
        virtual_stages=parallel.virtual_stages,
        num_micro_batches=setting.num_micro_batches,
    )
    kept = [_part_bytes(setting, part) for part in parts]
    most = max(sum(count * each for count, each in zip(state, kept, strict=True)) for state in states)
    layers = _layers(setting, parts)
    passing = {"a layer's backward pass": max((_passing_bytes(setting, layer) for layer in set(layers)), default=0)}
    if any(part.has_loss for part in parts):
        passing["loss"] = loss_bytes(setting)
    first = parts[0]
    if first.has_embedding:
        # Its layers have let go of theirs by then.
        passing["embedding's gradient"] = embedding_gradient_bytes(setting.architecture, setting) - kept[0]
    if any(layer.experts for layer in layers):
        passing["experts"] = max(expert_forward_bytes(setting, layer) for layer in set(layers))
    largest = max(passing, key=lambda item: passing[item])
    gathered = _gathered(setting, layers) if parallel.sharding == "full" else 0
    # The gradient that went to the stage before is there until the next one is.
    sent = input_bytes(setting) if stage > 0 else 0
    return {"activations": most, "gathered": gathered, "sent gradient": sent, largest: max(0, passing[largest])}


def _part_bytes(setting: Setting, part: Part) -> int:
    """What one micro-batch keeps of a part."""
    kept = sum(kept_of_layer(setting, setting.architecture.layers[number]) for number in part.layers)
    if part.has_loss:
        kept += setting.architecture.depths * kept_of_layer(setting, setting.architecture.layers[-1])
    if part.has_embedding and setting.software.keeps.dropout_masks:
        kept += setting.cut.own_tokens * setting.architecture.hidden
    if setting.software.keeps.stage_outputs and not part.has_loss:
        kept += input_bytes(setting)
    return kept


def kept_of_layer(setting: Setting, layer: Layer) -> int:
    """What one micro-batch keeps of a layer that is recomputed in part, or as a whole, or not at all."""
    recompute = setting.parallel.recompute
    if "layer" in recompute:
        return input_bytes(setting)
    kept = layer_bytes(setting, layer)
    if "attention_core" in recompute and setting.software.keeps.attention_scores:
        kept -= score_bytes(setting, layer)
    return kept


def _passing_bytes(setting: Setting, layer: Layer) -> int:
    """Of one layer's backward pass, with what it computes again for it."""
    recompute = setting.parallel.recompute
    backward = layer_backward_bytes(setting, layer)
    if "layer" in recompute:
        return backward + layer_bytes(setting, layer)
    if "attention_core" in recompute and setting.software.keeps.attention_scores:
        return max(backward, score_bytes(setting, layer))
    return backward


def _gathered(setting: Setting, layers: list[Layer]) -> int:
    """Whole weights of the unit that computes and of the next, and the first one's gradients, in the compute format and
    in fp32 on their way to the ranks (torch.distributed.fsdp, as mai/engine/full_sharding.py cuts the model)."""
    end = setting.architecture.output.num_parameters_on(setting.cut.tensor)
    units = sorted([end, *(_num_numbers(setting, layer) for layer in layers)])
    return setting.element_bytes * sum(units[-2:]) + (setting.element_bytes + _FP32) * units[-1]


def _largest_tensor(setting: Setting, rank: Held) -> int:
    end = setting.architecture.output.num_parameters_on(setting.cut.tensor)
    shards = setting.layout.context * setting.layout.data // setting.layout.sharding_copies
    # A rank's range of the parameters may end within one: at most as much as it owns.
    return min(end, -(-rank.all // shards))
