"""What the loop optimises: next-token prediction."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class ObjectiveConfig:
    loss: str | None = None
    """Your own loss of token losses, as path/to/file.py:function (docs/guides/your_own_part.md); None sums them."""
