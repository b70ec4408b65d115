"""Where the run's numbers go. A sink may fail; the run does not notice."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SinkName = Literal["wandb"]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class WandbConfig:
    """Where wandb files the run; what WANDB_PROJECT, WANDB_NAME, WANDB_RUN_GROUP and WANDB_TAGS say goes before."""

    project: str = "mai"
    """The project that the run is filed under."""

    name: str | None = None
    """The run's name; None for that of its run folder."""

    group: str | None = None
    """Runs that belong together, such as those of a sweep."""

    tags: tuple[str, ...] = ()
    """Words to find it by."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class ObserveConfig:
    sinks: tuple[SinkName, ...] = ()
    """Besides `metrics.jsonl` and the terminal, which are always there; `wandb` stays offline unless a key is set."""

    wandb: WandbConfig = Field(default_factory=WandbConfig)
