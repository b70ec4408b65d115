"""How long to train, on how many tokens at once, from which seed."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class TrainConfig:
    steps: int = Field(gt=0)
    """Optimizer steps of the whole run."""

    batch_tokens: int = Field(gt=0)
    """Tokens of one step, over all ranks; a multiple of `data.sequence_length`."""

    seed: int = Field(default=0, ge=0)
    """Draws the initial weights and the data order."""
