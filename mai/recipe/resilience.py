"""What a run does when something outside of it goes wrong."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class ResilienceConfig:
    peer_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long a rank waits for the others, to meet and in every exchange, before it takes them for lost: above any
    legal pause of a rank, such as a save on a slow file system. A process that is dead is noticed at once."""

    closing_seconds: float = Field(default=60.0, gt=0)
    """How long mai's own launcher lets ranks go on after the first of them has ended well: one may be busy with closing
    its watchers. Then it ends them."""
