"""How the run is judged on held-out text."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class EvaluateConfig:
    every_steps: int | None = Field(default=None, gt=0)
    """Steps between held-out evaluations; None evaluates at the end only."""

    sequences: int = Field(default=64, gt=0)
    """Held-out sequences of one evaluation, the same for every run; a multiple of what all copies of the model
    take at once."""
