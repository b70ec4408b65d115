"""How a run saves and starts again, and where it stands after so much time in which nothing happens."""

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from mai.plan.goodput.failures import Restart


class Stand(NamedTuple):
    """Where a run stands."""

    saves: int
    """Finished ones, near and far: the newest copy."""
    useful_seconds: float
    """Since then, at full speed."""
    stall_seconds: float
    """How long the save that is under way has kept the run waiting so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a run saves, what a failure costs it, and what it has in reserve."""

    near_interval_seconds: float
    """Useful time between saves."""
    saves_per_far_save: int
    """One save out of so many is to the far tier."""
    near_stall_seconds: float
    far_stall_seconds: float
    restart: Restart
    spare_nodes: int
    repair_seconds: float

    slow_node_mean_seconds: float = inf
    """From one slow node to the next; a second one beside it costs no more and is left out."""
    slowdown: float = 1.0
    slow_unnoticed_seconds: float = 0.0

    @property
    def loads_near(self) -> bool:
        """Where somebody plans the restart; with one tier there is nothing near."""
        return self.saves_per_far_save > 1

    def after(self, stand: Stand, seconds: float, *, slowdown: float) -> Stand:
        """Where the run stands so much later, if nothing happens."""
        every = self.saves_per_far_save
        piece = self.near_interval_seconds * slowdown + self.near_stall_seconds
        cycle = every * piece + self.far_stall_seconds - self.near_stall_seconds
        begun = stand.saves % every
        seconds += begun * piece + stand.useful_seconds * slowdown + stand.stall_seconds
        cycles, seconds = divmod(seconds, cycle)
        pieces = min(every - 1, int(seconds / piece))
        seconds = max(0.0, seconds - pieces * piece)
        useful = min(seconds / slowdown, self.near_interval_seconds)
        return Stand(stand.saves - begun + int(cycles) * every + pieces, useful, seconds - useful * slowdown)

    def useful(self, stand: Stand) -> float:
        """Seconds of work, from the beginning of the run."""
        return stand.saves * self.near_interval_seconds + stand.useful_seconds

    def last_far(self, saves: int) -> int:
        return saves - saves % self.saves_per_far_save

    def seconds_to_save(self, stand: Stand, *, slowdown: float) -> float:
        """Until the save that comes next is finished."""
        is_far = (stand.saves + 1) % self.saves_per_far_save == 0
        stall = self.far_stall_seconds if is_far else self.near_stall_seconds
        return (self.near_interval_seconds - stand.useful_seconds) * slowdown + stall - stand.stall_seconds
