"""What the terminal shows, kept small however long the run is."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mai.observe.record import RunStarted, StepRecord

_MAX_SHAPE_POINTS = 256
_RECENT_STEPS = 50


class Shape:
    """The shape of a long series in few points: when they become too many, each two neighbours become their mean."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._values_in_mean = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        self._open.append(value)
        if len(self._open) < self._values_in_mean:
            return
        self._means.append(sum(self._open) / len(self._open))
        self._open.clear()
        if len(self._means) == _MAX_SHAPE_POINTS:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._values_in_mean *= 2

    def __iter__(self) -> Iterator[float]:
        return iter(self._means)


@dataclass(slots=True)
class Progress:
    """One attempt so far."""

    run: RunStarted
    latest: StepRecord | None = None
    held_out: StepRecord | None = None
    """The newest record that was evaluated."""
    num_skipped: int = 0
    logged: dict[str, float] = field(default_factory=dict)
    """What a script said last, by its names."""
    losses: Shape = field(default_factory=Shape)
    held_out_bits: Shape = field(default_factory=Shape)
    _arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))

    def add(self, record: StepRecord, *, now: float) -> None:
        """Take in the next step, which was handed over at `now` (any clock that only goes up, in seconds)."""
        self.latest = record
        self.losses.add(record.loss)
        self.num_skipped += not record.kept
        self._arrivals.append((now, record.step))
        if record.held_out_bits_per_byte is not None:
            self.held_out = record
            self.held_out_bits.add(record.held_out_bits_per_byte)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last steps, saves and evaluations between them included; None before the second step."""
        if len(self._arrivals) < 2:
            return None
        (start, first), (end, last) = self._arrivals[0], self._arrivals[-1]
        return (self.run.steps - last) * (end - start) / max(1, last - first)
