"""What the loop optimises: next-token prediction."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class ObjectiveConfig:
    loss: str | None = None
    """Your own loss of token losses, as path/to/file.py:function (docs/guides/your_own_part.md); None sums them."""

    multi_token_weight: float = Field(default=0.3, gt=0)
    """Factor on the mean loss of `model.multi_token_depths`: DeepSeek-V3 trained with 0.3 for 10 trillion tokens, then
    with 0.1 (arXiv 2412.19437, section 4.2)."""
