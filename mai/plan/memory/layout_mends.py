"""What makes a setting fit that does not: changes of its layout on the same GPUs, what each gives and what it costs.

Every change keeps the tokens of a step. Where it takes data-parallel ranks for another axis, each of those that are
left computes as many more micro-batches.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mai.plan.memory.memory import memory
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.recipe import ParallelConfig

_WORTH_NAMING = 0.01
"""A change is named only if it frees more than this share of the memory that the largest rank needs."""


@dataclass(frozen=True, slots=True)
class Mend:
    setting: Setting
    """With the change."""
    freed_bytes: int
    """On the largest rank; it may be another one afterwards."""
    fits: bool
    slowdown: float
    """Seconds of a step over those without the change."""


def mends(setting: Setting, *, accepts: Callable[[ParallelConfig], bool]) -> tuple[Mend, ...]:
    """Changes that free memory, of those that a recipe `accepts`: first those after which it fits, the fastest first;
    then what frees most.

    A change of the layout comes together with recomputation where it takes both."""
    needed, seconds = memory(setting).largest.needed_bytes, step_time(setting).seconds

    def mend(changed: Setting) -> Mend:
        after = memory(changed)
        slowdown = step_time(changed).seconds / seconds
        return Mend(changed, needed - after.largest.needed_bytes, fits=after.fits, slowdown=slowdown)

    def accepted(changes: Iterable[Setting]) -> list[Mend]:
        return [mend(changed) for changed in changes if accepts(changed.parallel)]

    layouts, recomputed = accepted(_layouts(setting)), accepted(_recomputed(setting))
    both = accepted(further for layout in layouts if not layout.fits for further in _recomputed(layout.setting))
    enough = {alone.setting.parallel.recompute for alone in recomputed if alone.fits}
    found = layouts + recomputed
    found += [pair for pair in both if pair.fits and pair.setting.parallel.recompute not in enough]
    worth = (each for each in found if each.freed_bytes > _WORTH_NAMING * needed)
    return tuple(sorted(worth, key=lambda each: (not each.fits, each.slowdown if each.fits else -each.freed_bytes)))


def _recomputed(setting: Setting) -> Iterator[Setting]:
    """One module more, two, or whole layers."""
    before = setting.parallel.recompute
    if "layer" in before:
        return
    modules = ("norms", "attention_core", "experts" if setting.architecture.has_experts else "feed_forward")
    for chosen in (*((module,) for module in modules), ("norms", modules[-1]), ("layer",)):
        added = tuple(module for module in chosen if module not in before)
        if added:
            yield _with(setting, recompute=chosen if chosen == ("layer",) else (*before, *added))


def _layouts(setting: Setting) -> Iterator[Setting]:
    parallel = setting.parallel
    assert parallel.data is not None
    if parallel.tensor > 1 and not parallel.sequence:
        yield _with(setting, sequence=True)
    if parallel.sharding == "optimizer" and parallel.pipeline == 1:
        yield _with(setting, sharding="full")
    if parallel.sharding_ranks is not None:
        yield _with(setting, sharding_ranks=None)
    if parallel.micro_batch_sequences % 2 == 0:
        smaller = _with(setting, micro_batch_sequences=parallel.micro_batch_sequences // 2)
        yield replace(smaller, num_micro_batches=2 * setting.num_micro_batches)
    if parallel.schedule.is_interleaved:
        yield _with(setting, virtual_stages=1)
    if setting.architecture.has_experts:
        yield _with(setting, expert=2 * parallel.expert)
    if parallel.data % 2:
        return
    if 2 * parallel.tensor <= setting.cluster.scale_up.gpus:
        yield _doubled(setting, "tensor")
    yield _doubled(setting, "context")
    yield _doubled(setting, "pipeline")


def _doubled(setting: Setting, axis: str) -> Setting:
    """With twice the ranks on an axis, and half the data-parallel ones."""
    parallel = setting.parallel
    assert parallel.data is not None
    changed: dict[str, Any] = {axis: 2 * getattr(parallel, axis), "data": parallel.data // 2}
    if axis == "tensor":
        changed["sequence"] = True
    return replace(_with(setting, **changed), num_micro_batches=2 * setting.num_micro_batches)


def _with(setting: Setting, **changed: Any) -> Setting:
    """With these fields of its layout, and layers shared out anew over another number of virtual stages."""
    parallel = replace(setting.parallel, **changed)
    number = parallel.num_virtual_stages
    if number != setting.parallel.num_virtual_stages:
        parallel = replace(parallel, stages="balanced" if len(setting.architecture.layers) % number else "even")
    return replace(setting, parallel=parallel)
