"""How long one step takes, item by item."""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.plan.model.weights import Held
from mai.plan.setting.setting import Setting
from mai.plan.time.network import between_copies_seconds, ring_seconds, send_seconds, sharing_groups
from mai.plan.time.pass_time import ITEMS, Both, Passes
from mai.plan.time.rates import memory_bytes_per_second

_ADAM_BYTES = 30
"""Moved to update a parameter: fp32 gradient, master, two moments read, the last three and a bf16 weight written."""

_BUCKET_PARAMETERS = 40_000_000
"""megatron/core/distributed/distributed_data_parallel.py (core 0.16.1), the least of a bucket."""

_TENSORS_OF_LAYER = 6
"""Without buckets: four matrices and two norms."""

_LAST_BUCKET = 0.05
"""The share of gradients or weights that nothing hides: the last bucket of some twenty of 40 million numbers."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one micro-batch takes on one stage."""

    forward_seconds: float
    backward_seconds: float
    """With what is computed again."""

    @property
    def seconds(self) -> float:
        return self.forward_seconds + self.backward_seconds


@dataclass(frozen=True, slots=True)
class StepTime:
    seconds: float
    items_seconds: Mapping[str, float]
    """Together the step: the items of the slowest stage, and its wait for the others."""
    stages: tuple[StageTime, ...]
    slowest_stage: int


def step_time(setting: Setting) -> StepTime:
    """How long a step takes in which nothing goes wrong; raises PlanError where the GPU lacks the precision."""
    passes = Passes(setting)
    stages = [passes.of_stage(virtual_stages) for virtual_stages in setting.stages]
    seconds = [stage.all.seconds for stage in stages]
    slowest = max(range(len(stages)), key=seconds.__getitem__)
    busiest, times = stages[slowest], setting.num_micro_batches
    computed = (busiest.forward + busiest.backward) * times
    items = {item: getattr(computed, item) for item in ITEMS}
    items["recompute"] = busiest.again.seconds * times
    items |= _pipeline(setting, others=sum(seconds) - seconds[slowest])
    items |= _between_data_ranks(setting, busiest, slowest)
    items["step"] = setting.software.pace.step_milliseconds * 1e-3
    items = {item: value for item, value in items.items() if value > 0}
    return StepTime(
        seconds=sum(items.values()),
        items_seconds=items,
        stages=tuple(StageTime(one.forward.seconds, one.backward.seconds + one.again.seconds) for one in stages),
        slowest_stage=slowest,
    )


def _pipeline(setting: Setting, *, others: float) -> Mapping[str, float]:
    """Sends between stages, and the bubble; a micro-batch takes `others` seconds on all stages but the slowest."""
    stages, schedule = setting.parallel.pipeline, setting.parallel.schedule
    if stages == 1:
        return {}
    cut = setting.cut
    tokens = cut.tokens / cut.tensor if setting.software.pace.scatters_sends else cut.own_tokens
    num_bytes = tokens * setting.architecture.hidden * cut.element_bytes
    send = send_seconds(setting.cluster, num_bytes, stride=setting.layout.stage_ranks)
    hidden = setting.software.hides.pipeline if schedule.sends_overlap else 0.0
    sends = 4 * schedule.virtual_stages * setting.num_micro_batches * send * (1 - hidden)
    return {"pipeline": sends, "bubble": schedule.bubble_seconds(others) + 2 * (stages - 1) * send}


def _between_data_ranks(setting: Setting, busiest: Both, stage: int) -> Mapping[str, float]:
    """The sum of gradients, the optimizer, and the new weights to everybody."""
    hides = setting.software.hides
    on_rank, (shards, expert_shards) = setting.held_on(stage), setting.shards
    updated = on_rank.dense / shards + on_rank.experts / expert_shards
    items = {"optimizer": updated * _ADAM_BYTES / memory_bytes_per_second(setting.cluster.gpu)}
    if setting.parallel.sharding == "full":
        return items
    num_layers = sum(len(each.layers) for each in setting.stages[stage])
    reduce, gather = transfer_seconds(setting, on_rank, num_layers=num_layers)
    # Beside the last micro-batch's backward pass, and the first one's forward pass.
    backward, forward = hides.gradients * busiest.backward.seconds, hides.parameters * busiest.forward.seconds
    items["gradients"] = max(_LAST_BUCKET * reduce, reduce - backward)
    items["parameters"] = max(_LAST_BUCKET * gather, gather - forward)
    return items


def transfer_seconds(setting: Setting, on_rank: Held, *, num_layers: int) -> tuple[float, float]:
    """To sum gradients over those that hold the same weights, and to give out updated weights: of so many layers."""
    cluster, gradient_bytes = setting.cluster, setting.software.holds.gradient_bytes
    reduce, gather = 0.0, 0.0
    for parameters, sharing in zip((on_rank.dense, on_rank.experts), sharing_groups(setting), strict=True):
        if not parameters:
            continue
        pieces = parameters / _BUCKET_PARAMETERS
        if setting.software.pace.tensors_apart:
            pieces = _TENSORS_OF_LAYER * num_layers
        # Each piece waits for its own hops.
        hops = max(0.0, pieces - 1) * ring_seconds(cluster, sharing, 0)
        reduce += ring_seconds(cluster, sharing, parameters * gradient_bytes) + hops
        gather += ring_seconds(cluster, sharing, parameters * setting.element_bytes) + hops
        reduce += between_copies_seconds(setting, sharing, parameters * gradient_bytes)
    return reduce, gather
