"""What travels down the loop: the tokens of one step.

Shapes: B sequences of this data-parallel rank, S tokens of a sequence.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step that this data-parallel rank computes; the same on all its model ranks."""

    tokens_BS: Tensor
    """What the model reads (int64)."""
    targets_BS: Tensor
    """What it should say next (int64)."""
