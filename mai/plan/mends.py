"""What makes a setting fit that does not: single changes of its layout on the same GPUs, what each gives and costs.

Every change keeps the tokens of a step. Where it takes data-parallel ranks for another axis, each of those that are
left computes as many more micro-batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mai.plan.memory import memory
from mai.plan.setting import Setting
from mai.plan.step_time import step_time


@dataclass(frozen=True, slots=True)
class Mend:
    field: str
    """Of `ParallelConfig`."""
    setting: Setting
    """With the change."""
    freed_bytes: int
    """On the largest rank; it may be another one afterwards."""
    fits: bool
    slowdown: float
    """Seconds of a step over those without the change."""

    @property
    def value(self) -> Any:
        return getattr(self.setting.parallel, self.field)


def mends(setting: Setting) -> tuple[Mend, ...]:
    """The changes that free memory: first those after which it fits, the fastest first; then what frees most."""
    needed, seconds = memory(setting).largest.needed, step_time(setting).seconds
    found = []
    for field, changed in _changes(setting):
        after = memory(changed)
        freed = needed - after.largest.needed
        if freed > 0:
            slowdown = step_time(changed).seconds / seconds
            found.append(Mend(field, changed, freed, fits=after.fits, slowdown=slowdown))
    return tuple(sorted(found, key=lambda mend: (not mend.fits, mend.slowdown if mend.fits else -mend.freed_bytes)))


def _changes(setting: Setting) -> Iterator[tuple[str, Setting]]:
    parallel = setting.parallel
    if parallel.tensor > 1 and not parallel.sequence:
        yield "sequence", _with(setting, sequence=True)
    if "layer" not in parallel.recompute:
        yield "recompute", _with(setting, recompute=("layer",))
    if parallel.sharding == "optimizer" and parallel.pipeline == 1:
        yield "sharding", _with(setting, sharding="full")
    if parallel.sharding_ranks is not None:
        yield "sharding_ranks", _with(setting, sharding_ranks=None)
    if parallel.micro_batch_sequences % 2 == 0:
        smaller = _with(setting, micro_batch_sequences=parallel.micro_batch_sequences // 2)
        yield "micro_batch_sequences", replace(smaller, num_micro_batches=2 * setting.num_micro_batches)
    if parallel.virtual_stages > 1:
        yield "virtual_stages", _with(setting, virtual_stages=1)
    if _can_double_expert(setting):
        yield "expert", _with(setting, expert=2 * parallel.expert)
    for axis in ("tensor", "context", "pipeline"):
        if _can_double(setting, axis):
            yield axis, _doubled(setting, axis)


def _doubled(setting: Setting, axis: str) -> Setting:
    """With twice the ranks on an axis, and half the data-parallel ones."""
    parallel = setting.parallel
    assert parallel.data is not None
    changed: dict[str, Any] = {axis: 2 * getattr(parallel, axis), "data": parallel.data // 2}
    if axis == "tensor":
        changed["sequence"] = True
    return replace(_with(setting, **changed), num_micro_batches=2 * setting.num_micro_batches)


def _can_double(setting: Setting, axis: str) -> bool:
    parallel, cluster, architecture = setting.parallel, setting.cluster, setting.architecture
    assert parallel.data is not None
    # Hybrid sharding and experts name ranks of their own, which half as many data-parallel ones may not fit.
    if parallel.data % 2 or parallel.sharding_ranks is not None:
        return False
    ranks: int = 2 * getattr(parallel, axis)
    if axis == "tensor":
        heads = architecture.layers[0].attention.key_heads
        divides = heads % ranks == 0 and architecture.vocabulary % ranks == 0
        return divides and ranks <= cluster.scale_up.gpus
    if axis == "context":
        return setting.sequence_length % (2 * ranks * parallel.tensor) == 0
    of_expert = parallel.expert * parallel.expert_tensor
    stage_ranks = parallel.tensor * parallel.context * parallel.data // 2
    has_layers = len(architecture.layers) >= ranks * parallel.virtual_stages
    return parallel.sharding == "optimizer" and has_layers and stage_ranks % of_expert == 0


def _can_double_expert(setting: Setting) -> bool:
    parallel, layout = setting.parallel, setting.layout
    experts = next((layer.experts for layer in setting.architecture.layers if layer.experts), None)
    if experts is None:
        return False
    ranks = 2 * parallel.expert
    return experts.number % ranks == 0 and layout.stage_ranks % (ranks * parallel.expert_tensor) == 0


def _with(setting: Setting, **changed: Any) -> Setting:
    """With these fields of its layout, and layers shared out anew over another number of parts."""
    parallel = replace(setting.parallel, **changed)
    parts = parallel.pipeline * parallel.virtual_stages
    if parts != setting.parallel.pipeline * setting.parallel.virtual_stages:
        parallel = replace(parallel, stages="balanced" if len(setting.architecture.layers) % parts else "even")
    return replace(setting, parallel=parallel)
