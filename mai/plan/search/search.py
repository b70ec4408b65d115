"""Which layout trains a recipe's model fastest on a budget of GPUs: best-first, over every layout that mai accepts.

Every candidate enters a queue with a time that it cannot beat (`floor.py`). The one with the least comes out first:
degrees go back with each choice of sharding and the least recomputation that may fit, such a choice goes back with its
step time, and what comes out with its step time beats everything behind it. If it does not fit, it goes back with the
next recomputation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from mai.errors import PlanError
from mai.plan.memory.memory import Memory, memory, rank_memory
from mai.plan.search.candidates import (
    ZERO_1,
    Degrees,
    Recomputation,
    Sharding,
    degrees,
    parallel_of,
    recomputations,
    shardings,
)
from mai.plan.search.floor import Floor
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import StepTime, step_time
from mai.recipe import ParallelConfig

_NEAR = 1.1
"""A layout that needs more than so many times the GPU's memory is no near miss."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A layout, and what it takes."""

    setting: Setting
    time: StepTime
    memory: Memory

    @classmethod
    def of(cls, setting: Setting) -> "Planned":
        return cls(setting, step_time(setting), memory(setting))

    @property
    def num_gpus(self) -> int:
        return self.setting.layout.world_size

    @property
    def tokens_per_second(self) -> float:
        return self.setting.tokens / self.time.seconds


@dataclass(frozen=True, slots=True)
class Ranking:
    best: tuple[Planned, ...]
    """The fastest first, each the best of all that have its degrees; empty where nothing fits."""
    near_miss: Planned | None
    """The fastest that does not quite fit, where it is faster than all that do; where none fits, that which needs
    least."""
    num_degrees: int
    """That were compared."""


def search(
    setting: Setting, *, num_gpus: int, number: int = 10, accepts: Callable[[ParallelConfig], bool] = lambda _: True
) -> Ranking:
    """The best layouts of a setting's model and batch on at most so many GPUs, among those that a recipe `accepts`.

    Raises PlanError where no layout shares out the batch.
    """
    return _Search(setting, num_gpus=num_gpus, accepts=accepts).run(number)


class _Search:
    def __init__(self, setting: Setting, *, num_gpus: int, accepts: Callable[[ParallelConfig], bool]) -> None:
        self._setting, self._accepts = setting, accepts
        self._batch = setting.tokens // setting.sequence_length
        self._floor = Floor(setting)
        self._recomputations = tuple(recomputations(setting))
        self._degrees = degrees(setting, batch_sequences=self._batch, num_gpus=num_gpus)
        if not self._degrees:
            raise PlanError(f"{num_gpus} GPUs: no layout shares out a batch of {self._batch} sequences")

    def run(self, number: int) -> Ranking:
        order = count()  # of equal times, the first one made is the better one
        queue: list[tuple[float, int, _Item]] = [
            (self._floor.seconds(cut, self._num_micro_batches(cut)), next(order), _Item(cut, self._setting))
            for cut in self._degrees
        ]
        heapify(queue)
        best: dict[Degrees, Planned] = {}
        near_miss: Planned | None = None
        while queue and len(best) < number:
            _, _, item = heappop(queue)
            if item.degrees.without_data in best:
                continue
            planned = self._planned(item)
            if planned and planned.memory.fits and self._accepts(planned.setting.parallel):
                best[item.degrees.without_data] = planned
                continue
            if planned and not best and near_miss is None and self._is_near(planned.memory.largest.needed_bytes):
                near_miss = planned
            for seconds, further in self._opened(item):
                heappush(queue, (seconds, next(order), further))
        if not best and near_miss is None:
            near_miss = self._smallest()
        return Ranking(tuple(best.values()), near_miss, len(self._degrees))

    def _opened(self, item: "_Item") -> Iterator[tuple[float, "_Item"]]:
        """What comes of an item, with times that it cannot beat."""
        if item.sharding is None:
            for sharding in shardings(self._setting, item.degrees):
                yield from self._next(item._replace(sharding=sharding), self._recomputations)
        elif item.time is not None:
            yield from self._next(item._replace(time=None), item.recomputations[1:])
        # The first stage keeps most micro-batches; the others are looked at when its time has come.
        elif self._is_near(rank_memory(item.setting, 0).needed_bytes):
            time = step_time(item.setting)
            yield time.seconds, item._replace(time=time)
        else:
            yield from self._next(item, item.recomputations[1:])

    @staticmethod
    def _planned(item: "_Item") -> Planned | None:
        return None if item.time is None else Planned(item.setting, item.time, memory(item.setting))

    def _next(self, item: "_Item", recomputations: Sequence[Recomputation]) -> Iterator[tuple[float, "_Item"]]:
        """With the fastest of these recomputations that may fit, and behind it those that are slower and save more:
        they are asked for when it does not fit."""
        cut, sharding = item.degrees, item.sharding or ZERO_1
        micro_batches = self._num_micro_batches(cut)
        # Whole layers come last and save most.
        if not self._is_near(self._floor.num_bytes(cut, micro_batches, self._recomputations[-1], sharding)):
            return
        num_bytes = {
            recompute: self._floor.num_bytes(cut, micro_batches, recompute, sharding) for recompute in recomputations
        }
        near = [recompute for recompute in recomputations if self._is_near(num_bytes[recompute])]
        if near:
            seconds = {recompute: self._floor.seconds(cut, micro_batches, recompute, sharding) for recompute in near}
            first = min(near, key=seconds.__getitem__)
            rest = [recompute for recompute in recomputations if num_bytes[recompute] < num_bytes[first]]
            setting = self._in(cut, first, sharding)
            least = seconds[first] + self._floor.transfer_seconds(setting, cut, sharding)
            yield least, item._replace(recomputations=(first, *rest), setting=setting)

    def _smallest(self) -> Planned:
        """That which needs least memory, by its floor."""
        most = self._recomputations[-1]
        every = ((cut, sharding) for cut in self._degrees for sharding in shardings(self._setting, cut))
        cut, sharding = min(
            every, key=lambda one: self._floor.num_bytes(one[0], self._num_micro_batches(one[0]), most, one[1])
        )
        return Planned.of(self._in(cut, most, sharding))

    def _in(self, cut: Degrees, recompute: Recomputation, sharding: Sharding) -> Setting:
        parallel = parallel_of(self._setting, cut, recompute, sharding)
        return replace(self._setting, parallel=parallel, num_micro_batches=self._num_micro_batches(cut))

    def _num_micro_batches(self, cut: Degrees) -> int:
        return self._batch // (cut.micro_batch_sequences * cut.data)

    def _is_near(self, num_bytes: float) -> bool:
        return num_bytes <= _NEAR * self._setting.cluster.gpu.most_memory_gib * 2**30


class _Item(NamedTuple):
    """What stands in the queue: degrees, then a setting with what is shared out and recomputed, then the time that this
    takes."""

    degrees: Degrees
    setting: Setting
    sharding: Sharding | None = None
    recomputations: tuple[Recomputation, ...] = ()
    """The first is the setting's; the others save more."""
    time: StepTime | None = None
