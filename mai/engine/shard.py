"""A part of a named global tensor, as the checkpoint knows it: which box, and which range of it. No Megatron."""

from dataclasses import dataclass, replace

from torch import Tensor

WEIGHT = "weight"
"""The state that every piece has: fp32, what the model computes with or a copy of it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A box of a global tensor that one local parameter, or a half of it, holds whole."""

    name: str
    """Global name, layers counted over all stages."""
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    """Where the box begins in the global tensor."""
    shape: tuple[int, ...]
    is_replica: bool
    """Another tensor-parallel or pipeline rank holds the same box and answers for it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Elements `start` to `stop` of the flattened block, as live 1-D tensors: write into them to load."""

    block: Block
    start: int
    stop: int
    tensors: dict[str, Tensor]
    """By state: WEIGHT, and of parameters that are trained those that the optimizer keeps."""

    def weight_only(self) -> "Shard":
        """The same shard without what an optimizer keeps."""
        return replace(self, tensors={WEIGHT: self.tensors[WEIGHT]})

    def as_replica(self) -> "Shard":
        """The same shard, for which another rank answers."""
        return replace(self, block=replace(self.block, is_replica=True))
