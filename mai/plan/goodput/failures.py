"""What breaks on a cluster, how often, and how long each step of a restart takes: `Failures`, read from a TOML file.

A number stands in its file with its source; what nobody published is an assumption there, and says so. A file without
[restart] gets the design's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

from mai.errors import PlanError
from mai.hardware.names import names_in, read_named
from mai.hardware.toml_file import MAY_BE_ZERO, NOT_A_KEY, Findings, build

_SHIPPED = Path(__file__).parents[1] / "failures"
_DESIGN = "assumption: mai's design budget for a restart"

Breaks = Literal["nothing", "node", "rack"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One line of a table of failures."""

    count: float
    """How often it was seen; only the shares among the causes matter."""

    breaks: str = field(metadata={"one_of": get_args(Breaks)})
    """Whether the same nodes can go on, one must be replaced, or all behind a switch."""

    noticed_after_hours: float = field(default=0.0, metadata=MAY_BE_ZERO)
    """Silent corruption: its numbers have been wrong for so long. The run goes back to before that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowNodes:
    """Nodes that compute right and too slowly; all others wait for them."""

    gpu_hours_between: float
    slowdown: float = field(metadata={"least": 1})
    """Seconds of a step with such a node over those without."""
    noticed_after_hours: float
    """Then it is replaced, after the next save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    hours: float
    """Mean time until a broken node is back as a spare."""
    rack_nodes: int
    """That a rack or its switch takes with it."""

    @property
    def seconds(self) -> float:
        return self.hours * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """The steps from a failure to the first new step; what nothing else is known of takes what the design allows it.

    The design's budget is 5 minutes with a near load; no large run has measured it yet.
    """

    detect_seconds: float = field(default=30.0, metadata=MAY_BE_ZERO)
    diagnose_seconds: float = field(default=20.0, metadata=MAY_BE_ZERO)
    """Dump and blame."""
    replace_seconds: float = field(default=30.0, metadata=MAY_BE_ZERO)
    """A node out and a spare in, where one broke and a spare is there."""
    start_processes_seconds: float = field(default=45.0, metadata=MAY_BE_ZERO)
    """And their imports."""
    communicators_seconds: float = field(default=60.0, metadata=MAY_BE_ZERO)
    load_near_seconds: float = field(default=20.0, metadata=MAY_BE_ZERO)
    load_far_seconds: float = field(default=60.0, metadata=MAY_BE_ZERO)
    """Where the plan knows the bandwidth of the storage it computes its own."""
    first_step_seconds: float = field(default=95.0, metadata=MAY_BE_ZERO)
    """What it takes longer than later ones (60), and what is held in reserve (35)."""

    def steps(self, *, is_near: bool, replaces: bool, is_planned: bool = False) -> dict[str, float]:
        """Seconds of each step that is taken, in order. One that is planned needs no detection and no diagnosis."""
        left_out = {"load_far" if is_near else "load_near"}
        left_out |= set() if replaces else {"replace"}
        left_out |= {"detect", "diagnose"} if is_planned else set()
        every = {each.name.removesuffix("_seconds"): getattr(self, each.name) for each in fields(self)}
        return {name: seconds for name, seconds in every.items() if name not in left_out}


def restart_of(**seconds: float) -> Restart:
    """A restart of these steps alone: all others take no time."""
    return Restart(**{**{each.name: 0.0 for each in fields(Restart)}, **seconds})


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a save to each tier keeps the run waiting: near is memory of other nodes, far is storage."""

    near_stall_seconds: float = field(metadata=MAY_BE_ZERO)
    far_stall_seconds: float = field(metadata=MAY_BE_ZERO)
    """Where the plan knows the bandwidth of the storage it computes its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """A cluster's habit of failing, and what is done about it."""

    name: str = field(metadata=NOT_A_KEY)
    describes: str
    """In words, for people."""

    gpu_hours_between: float
    """GPU hours that a job runs from one interruption to the next, on average."""

    weibull_shape: float = field(default=1.0, metadata={"least": 0.1})
    """1 is exponential; below 1 failures come in bursts."""

    near_share: float = field(metadata={"least": 0, "most": 1})
    """The share of failures after which the state is still in some memory."""

    slow_nodes: SlowNodes | None = None
    repair: Repair
    restart: Restart = Restart()
    checkpoint: Checkpoint

    causes: Mapping[str, Cause] = field(metadata=NOT_A_KEY, hash=False)

    sources: Mapping[str, str] = field(default_factory=dict, metadata=NOT_A_KEY, repr=False, hash=False)
    """Where numbers come from, by the path of their key."""

    def mean_seconds(self, gpus: int) -> float:
        """From one interruption of so many GPUs to the next: MTTI = 1 / (GPUs x rate)."""
        return self.gpu_hours_between * 3600 / gpus

    def slow_node_mean_seconds(self, gpus: int) -> float:
        """From one slow node to the next."""
        return self.slow_nodes.gpu_hours_between * 3600 / gpus if self.slow_nodes else inf

    @property
    def total(self) -> float:
        return sum(cause.count for cause in self.causes.values())

    def share(self, breaks: Breaks) -> float:
        """The share of failures that break this."""
        return sum(cause.count for cause in self.causes.values() if cause.breaks == breaks) / self.total

    def broken_nodes(self, breaks: str) -> int:
        return {"nothing": 0, "node": 1, "rack": self.repair.rack_nodes}[breaks]

    @property
    def mean_unnoticed_seconds(self) -> float:
        """That a failure's numbers have been wrong, over all failures."""
        return 3600 * sum(cause.count * cause.noticed_after_hours for cause in self.causes.values()) / self.total

    def near_chance(self, cause: Cause) -> float:
        """That a failure of this cause leaves the state in some memory: none where a rack takes its memory with it, or
        the newest copies are corrupt."""
        if not _may_be_near(cause):
            return 0.0
        return self.near_share * self.total / sum(each.count for each in self.causes.values() if _may_be_near(each))


def load_failures(name_or_path: str | Path) -> Failures:
    """The failures that ship under this name, or that a TOML file of the user's own describes.

    Raises PlanError with everything that is wrong with the file.

    Example:
        load_failures("llama3").mean_seconds(15_000)
    """
    file, table = read_named(name_or_path, "failures", _SHIPPED)
    findings = Findings()
    causes = _causes(table.pop("causes", None), findings)
    found = build(Failures, table, findings, name=file.stem, causes=causes, sources=findings.sources)
    violations = findings.violations + (_breaches(found) if found and not findings.violations else [])
    if violations or found is None:
        raise PlanError(*(f"{file}: {violation}" for violation in violations))
    assumed = [each.name for each in fields(Restart) if getattr(found.restart, each.name) == each.default]
    return replace(found, sources={f"restart.{name}": _DESIGN for name in assumed} | findings.sources)


def failure_names() -> list[str]:
    """The lists of failures that ship with mai."""
    return names_in(_SHIPPED)


def _causes(tables: Any, findings: Findings) -> dict[str, Cause]:
    """Each cause under its own name, which the file is free to choose."""
    if not isinstance(tables, dict) or not tables:
        findings.violations.append("causes: missing; name at least one, [causes.<name>]")
        return {}
    causes = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            findings.violations.append(f"causes.{name}={table}: must be a table, [causes.{name}]")
        elif cause := build(Cause, table, findings, within=f"causes.{name}."):
            causes[name] = cause
    return causes


def _breaches(failures: Failures) -> list[str]:
    """The rule between keys."""
    most = sum(cause.count for cause in failures.causes.values() if _may_be_near(cause)) / failures.total
    rule = f"must not be above {most:.3f}, the share of those that break no rack and corrupt nothing"
    return [] if failures.near_share <= most else [f"near_share={failures.near_share:g}: {rule}"]


def _may_be_near(cause: Cause) -> bool:
    return cause.breaks != "rack" and not cause.noticed_after_hours
