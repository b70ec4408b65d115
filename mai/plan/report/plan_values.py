"""A plan as one value, in the order in which it is published (plan-1.json)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mai.hardware.cluster import Price, Site
from mai.parallel.layout import Layout
from mai.plan.cost import Cost, Disk
from mai.plan.memory.memory import Memory
from mai.plan.published import AMONG_THE_OTHERS, WHERE_ASKED, its
from mai.plan.scheduler.scheduler_answers import SchedulerAnswers
from mai.plan.setting.setting import Precision
from mai.plan.time.step_time import StepTime
from mai.plan.time.trust import Trust
from mai.recipe.parallel import Recomputed

# Types alone: a plan without these blocks answers before they would be loaded.
if TYPE_CHECKING:
    from mai.plan.goodput.goodput_values import Goodput
    from mai.plan.placement.map_and_traffic import Traffic
    from mai.plan.placement.rank_map import RankMap
    from mai.plan.proof.of_schedule import ScheduleProof


@dataclass(frozen=True, slots=True)
class SoftwareReport:
    name: str
    describes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterReport:
    name: str
    gpu: str
    gpu_watts: float | None
    gpu_watts_source: str | None
    price: Price | None
    site: Site
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gpus:
    booked: int
    in_use: int
    spares: int
    most_data: int
    """Data ranks that `parallel.data=none` would give."""


@dataclass(frozen=True, slots=True)
class LayoutMend:
    """A change of the layout that frees memory."""

    overrides: list[str]
    """Words to add to the command."""
    freed_bytes: int
    fits: bool
    slowdown: float


@dataclass(frozen=True, slots=True)
class Step:
    time: StepTime = field(metadata=AMONG_THE_OTHERS)
    kind: str
    """The kind of setting, such as `mai/bf16/dense/h100`: predicted times of one kind are off alike."""
    measured: Trust | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    model_tflops_per_gpu: float
    peak_tflops: float | None
    """In the precision of the matrix products."""
    utilisation: float | None
    utilisation_of_full_attention: float | None
    convention: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """All steps of a recipe."""

    continues: str | None
    """The run before it."""
    steps: int
    tokens: int
    seconds: float
    days: float
    cost: Cost = field(metadata=AMONG_THE_OTHERS)
    per_million_tokens: Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeRun:
    """All phases together."""

    phases: list[str]
    """Names of their recipes."""
    steps: int
    tokens: int
    seconds: float
    days: float
    cost: Cost = field(metadata=AMONG_THE_OTHERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `mai plan` says of a recipe on a cluster; None is unknown."""

    schema: Mapping[str, str | int]
    recipe: str
    fingerprint: str
    software: SoftwareReport
    cluster: ClusterReport
    gpus: Gpus
    layout: Layout = field(metadata=its("degrees"))
    sharding: str
    recompute: tuple[Recomputed, ...]
    micro_batches: int
    micro_batch_sequences: int
    sequence_length: int
    precision: Precision
    imbalance: float | None
    """Tokens of the busiest expert rank over the mean; None for a model without experts."""
    memory: Memory
    mends: list[LayoutMend]
    """What would make it fit, the cheapest first; nothing where it does."""
    step: Step
    speed: Speed
    phase: Phase
    disk: Disk
    scheduler: SchedulerAnswers
    run: WholeRun | None = field(default=None, metadata=WHERE_ASKED)
    goodput: "Goodput | None" = field(default=None, metadata=WHERE_ASKED)
    schedule: "ScheduleProof | None" = field(default=None, metadata=WHERE_ASKED)
    map: "RankMap | None" = field(default=None, metadata=WHERE_ASKED)
    traffic: "Traffic | None" = field(default=None, metadata=WHERE_ASKED)
