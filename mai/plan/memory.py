"""How many bytes every pipeline stage's ranks need, item by item."""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.plan.setting import Setting


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of one rank of a stage, in bytes; all ranks of a stage need the same, experts' imbalance aside."""

    stage: int
    items: Mapping[str, int]
    """What PyTorch's allocator hands out when most is in use; together `allocated`."""
    outside: int
    """Of the driver, of NCCL, and what the allocator holds back in pieces."""
    during_save: int
    """What a save adds."""

    @property
    def allocated(self) -> int:
        return sum(self.items.values())

    @property
    def needed(self) -> int:
        """Of the GPU's memory."""
        return self.allocated + self.outside


@dataclass(frozen=True, slots=True)
class Memory:
    stages: tuple[RankMemory, ...]
    usable: int | None
    """Bytes that the GPU gives to a process; None where nobody published it."""

    @property
    def largest(self) -> RankMemory:
        return max(self.stages, key=lambda rank: rank.needed)

    @property
    def fits(self) -> bool:
        return self.usable is None or self.largest.needed <= self.usable


def memory(setting: Setting) -> Memory:
    """Of every stage."""
    raise NotImplementedError
