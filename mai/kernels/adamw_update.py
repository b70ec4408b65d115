"""The numbers of an AdamW update. Without torch, because mai/optimizer says them."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What an update needs to know besides the tensors, in the order of the operator's arguments."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    gradient_factor: float
    """What clipping multiplies the gradients by; 1 where nothing is clipped."""
    number: int
    """Which update it is, from 1."""

    @classmethod
    def of(cls, *numbers: Any) -> "Update":
        """From the operator's arguments."""
        return cls(**dict(zip((field.name for field in fields(cls)), numbers, strict=True)))
