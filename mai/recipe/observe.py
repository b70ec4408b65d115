"""Where the run's numbers go. A sink may fail; the run does not notice."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

SinkName = Literal["wandb"]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class ObserveConfig:
    sinks: tuple[SinkName, ...] = ()
    """Besides `metrics.jsonl` and the terminal, which are always there; `wandb` stays offline unless a key is set."""
