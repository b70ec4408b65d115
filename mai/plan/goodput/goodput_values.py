"""What is known of a planned run under failures, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mai.plan.goodput.levers import Lever
from mai.plan.goodput.replay import Replayed
from mai.plan.published import AMONG_THE_OTHERS


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureRate:
    """What the list of failures says, for the plan's GPUs."""

    name: str
    describes: str
    mean_hours: float
    per_day: float
    near_share: float
    node_share: float
    rack_share: float
    weibull_shape: float


@dataclass(frozen=True, slots=True)
class SavesToTier:
    every_seconds: float
    every_steps: int
    stall_seconds: float


@dataclass(frozen=True, slots=True)
class SavesToStorage:
    saves: SavesToTier = field(metadata=AMONG_THE_OTHERS)
    bytes_per_day: float
    keep: int
    """A copy from before the longest corruption must still be there."""


@dataclass(frozen=True, slots=True)
class SavesOfRecipe:
    """As often as the recipe saves; None: at its end alone."""

    every_seconds: float | None
    every_steps: int | None
    closed_form: float


@dataclass(frozen=True, slots=True)
class EnoughSpares:
    confidence: float
    nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spares:
    nodes: int
    """That the plan has."""
    in_repair: float
    """The mean, if the run never waits for one."""
    repair_hours: float
    enough: list[EnoughSpares]


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartBudget:
    mean_seconds: float
    steps_seconds: Mapping[str, float]
    goal: float
    """Goodput."""
    budget_seconds: float | None
    """That a restart may take for it; None where none is fast enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    closed_form: float
    simulated: float
    agree: bool
    nine_of_ten_between: tuple[float, float]
    runs: int
    """Simulated ones."""
    waiting_share: float
    """The share of simulated runs that had no spare at least once."""
    parts: Mapping[str, float]
    """Shares of all time."""


@dataclass(frozen=True, slots=True)
class Days:
    useful: float
    expected: float | None
    """None where the run never ends."""


@dataclass(frozen=True, slots=True)
class LostMoney:
    currency: str | None
    lost: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTiers:
    """With saves to memory of other nodes besides, from which as many failures are mended as the list says."""

    near: SavesToTier
    far: SavesToStorage
    restart_seconds: float
    closed_form: float
    simulated: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Goodput:
    """The block `goodput` of a plan."""

    failures: FailureRate
    checkpoint: SavesToStorage
    recipe: SavesOfRecipe
    spares: Spares
    restart: RestartBudget
    expected: Expected
    days: Days
    money: LostMoney
    replayed: Replayed | None
    two_tiers: TwoTiers | None
    levers: list[Lever]
    sources: Mapping[str, str]
