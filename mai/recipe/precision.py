"""In which number format the model computes. Master weights, moments and gradients' sums are always fp32."""

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class PrecisionConfig:
    compute: Literal["bf16", "fp32"] = "bf16"
    """Format of weights and activations in forward and backward."""
