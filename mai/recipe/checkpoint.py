"""How often the run saves itself, and how many saves it keeps."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class CheckpointConfig:
    every_steps: int | None = Field(default=None, gt=0)
    """Steps between saves; None saves at the end and when stopped, only."""

    start_from: str | None = None
    """A run folder whose newest checkpoint gives the initial weights, or RUN/checkpoints/step-N; None draws them."""

    take: Literal["weights", "all"] = "weights"
    """What is taken of it: the weights alone, or what the optimizer keeps as well; steps count from 0 in any case."""

    keep: int = Field(default=2, gt=0)
    """Newest checkpoints to keep; older ones are deleted after the next commit."""
