"""Which layout trains a recipe's model fastest on a budget of GPUs: best-first, over every layout that mai accepts.

Every candidate enters a queue with a time that it cannot beat (`floor`). The one with the least comes out first: degrees
come back with each choice of recomputation, those come back with their step time if they fit, and what comes out with
its step time beats everything behind it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count

from mai.errors import PlanError
from mai.plan.candidates import Degrees, Sharding, degrees, parallel_of, recomputations, shardings
from mai.plan.floor import Floor
from mai.plan.memory import Memory, memory, rank_memory
from mai.plan.setting import Setting
from mai.plan.step_time import StepTime, step_time
from mai.recipe.parallel import Recomputed

_NEAR = 1.1
"""Of the GPU's memory: what needs more than this is no near miss."""


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
    """The fastest of those that are faster than the best one, and do not quite fit. Where nothing fits: the one that
    needs the least."""
    num_degrees: int
    """That were compared."""


def search(setting: Setting, *, num_gpus: int, number: int = 10) -> Ranking:
    """The best layouts of a setting's model and batch on at most so many GPUs.

    Raises PlanError where the rules leave no layout.
    """
    return _Search(setting, num_gpus=num_gpus).run(number)


class _Search:
    def __init__(self, setting: Setting, *, num_gpus: int) -> None:
        self._setting = setting
        self._batch = setting.tokens // setting.sequence_length
        self._floor = Floor(setting)
        self._recomputations = tuple(recomputations(setting))
        self._degrees = degrees(setting, batch_sequences=self._batch, num_gpus=num_gpus)
        if not self._degrees:
            raise PlanError(f"{num_gpus} GPUs: no layout shares out a batch of {self._batch} sequences")
        self._near_miss: Planned | None = None
        self._fitting: set[tuple[Degrees, Sharding]] = set()

    def run(self, number: int) -> Ranking:
        order = count()  # of equal times, the first one made is the better one
        queue: list[tuple[float, int, _Item]] = [
            (self._floor.seconds(cut, self._num_micro_batches(cut)), next(order), _Item(cut)) for cut in self._degrees
        ]
        heapify(queue)
        best: dict[Degrees, Planned] = {}
        while queue and len(best) < number:
            _, _, item = heappop(queue)
            if item.degrees.without_data in best:
                continue
            if item.planned is not None:
                best[item.degrees.without_data] = item.planned
                continue
            for seconds, further in self._opened(item):
                heappush(queue, (seconds, next(order), further))
        return Ranking(tuple(best.values()), self._near_miss, len(self._degrees))

    def _opened(self, item: "_Item") -> Iterator[tuple[float, "_Item"]]:
        """What an item stands for, with times that it cannot beat."""
        cut = item.degrees
        if item.recompute is None:
            yield from self._choices(cut)
            return
        # Recomputing more than fits is asked for only costs time, so the first one that fits is the best of its kind.
        kind = item.degrees, item.sharding
        planned = None if kind in self._fitting else self._planned(item)
        if planned is None:
            return
        if planned.memory.fits:
            self._fitting.add(kind)
            yield planned.time.seconds, replace(item, planned=planned)
        elif self._near_miss is None or planned.time.seconds < self._near_miss.time.seconds:
            self._near_miss = planned

    def _choices(self, cut: Degrees) -> Iterator[tuple[float, "_Item"]]:
        micro_batches = self._num_micro_batches(cut)
        for sharding in shardings(self._setting, cut):
            least = math.inf
            for recompute in self._recomputations:
                num_bytes = self._floor.num_bytes(cut, micro_batches, recompute, sharding)
                # What saves nothing only costs time.
                if num_bytes < least and self._is_near(num_bytes):
                    seconds = self._floor.seconds(cut, micro_batches, recompute, sharding)
                    yield seconds, _Item(cut, recompute, sharding)
                least = min(least, num_bytes)

    def _planned(self, item: "_Item") -> Planned | None:
        """None where it needs far too much memory."""
        parallel = parallel_of(self._setting, item.degrees, item.recompute or (), item.sharding)
        micro_batches = self._num_micro_batches(item.degrees)
        setting = replace(self._setting, parallel=parallel, num_micro_batches=micro_batches)
        # The first stage keeps most micro-batches, and is one of many.
        if not self._is_near(rank_memory(setting, 0).needed):
            return None
        needed = memory(setting)
        return Planned(setting, step_time(setting), needed) if self._is_near(needed.largest.needed) else None

    def _num_micro_batches(self, cut: Degrees) -> int:
        return self._batch // (cut.micro_batch_sequences * cut.data)

    def _is_near(self, num_bytes: float) -> bool:
        usable = self._setting.cluster.gpu.usable_memory_gib
        return usable is None or num_bytes <= _NEAR * usable * 2**30


@dataclass(frozen=True, slots=True)
class _Item:
    """Of the queue: degrees, then with what is recomputed and shared out, then with what that takes."""

    degrees: Degrees
    recompute: tuple[Recomputed, ...] | None = None
    sharding: Sharding = Sharding()
    planned: Planned | None = None
