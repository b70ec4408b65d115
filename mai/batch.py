"""What travels down the loop: the tokens of one step, and what is said of each of them.

Shapes: B sequences of this data-parallel rank, S tokens of a sequence, D depths after the next token.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step that this data-parallel rank computes; the same on all its model ranks.

    What is None costs nothing: every target counts 1, a row is one segment, positions are 0, 1, ... of the row. All
    tensors have the same shape; a new one is a field here, and comes along wherever a batch is cut and moved."""

    tokens_BS: Tensor
    """What the model reads (int64)."""
    targets_BS: Tensor
    """What it should say next (int64); some token also where it does not count."""
    weights_BS: Tensor | None = None
    """What each target's loss is multiplied with (fp32); 0: the target does not count, below 0 is allowed."""
    segments_BS: Tensor | None = None
    """Runs of equal numbers (int64): attention stays inside a run, so that packed documents do not see each other."""
    positions_BS: Tensor | None = None
    """Rotary positions (int64), from 0 to less than the model's longest sequence."""
    further_weights_BSD: Tensor | None = None
    """The weights of the targets one, two, ... places further; filled in by `for_depths`."""

    def __post_init__(self) -> None:
        """Raises ValueError for a tensor of another shape or dtype than this class says."""
        for name, tensor in self._tensors.items():
            dtype = torch.float32 if "weights" in name else torch.int64
            if tensor.shape[:2] != self.tokens_BS.shape or tensor.dtype != dtype:
                raise ValueError(
                    f"Batch.{name}: {tensor.dtype} of shape {tuple(tensor.shape)}; it must be {dtype} of shape "
                    f"{tuple(self.tokens_BS.shape)}, that of tokens_BS"
                )

    @property
    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed alike: moved to a device, cut to some columns."""
        return Batch(**{name: change(tensor) for name, tensor in self._tensors.items()})

    def split(self, num_sequences: int) -> list["Batch"]:
        """Micro-batches of so many sequences; the batch must be a multiple of that."""
        assert self.tokens_BS.size(0) % num_sequences == 0, "recipe/rules/batch_rules.py lets no such batch through"
        starts = range(0, self.tokens_BS.size(0), num_sequences)
        return [self.each(lambda x, start=start: x[start : start + num_sequences]) for start in starts]  # type: ignore[misc]

    def num_counted(self) -> Tensor:
        """How many of its targets count, int32 without dims; on the batch's device, for which nobody waits."""
        if self.weights_BS is None:
            return torch.full((), self.targets_BS.numel(), dtype=torch.int32, device=self.targets_BS.device)
        return self.weights_BS.count_nonzero().int()

    def with_numbered_segments(self) -> "Batch":
        """Each segment's number becomes the position in the row at which it begins: so a part of a row knows it too.

        Of whole rows."""
        if self.segments_BS is None:
            return self
        place_S = torch.arange(self.segments_BS.size(1), device=self.segments_BS.device)
        begins_BS = torch.ones_like(self.segments_BS, dtype=torch.bool)
        begins_BS[:, 1:] = self.segments_BS[:, 1:] != self.segments_BS[:, :-1]
        return replace(self, segments_BS=torch.where(begins_BS, place_S, 0).cummax(dim=1).values)

    def for_depths(self, depths: int) -> "Batch":
        """With the weights of the targets that so many further depths predict: that of the target itself, and 0 where
        it stands in another segment or beyond the row. Of whole rows.

        `segments_BS` must be numbered (`with_numbered_segments`)."""
        if depths == 0:
            return self
        weights_BS = self.weights_BS
        if weights_BS is None:
            weights_BS = torch.ones_like(self.targets_BS, dtype=torch.float32)
        further_BSD = weights_BS.new_zeros((*weights_BS.shape, depths))
        for depth in range(1, depths + 1):
            here, there = slice(0, -depth), slice(depth, None)
            moved_BS = weights_BS[:, there]
            if self.segments_BS is not None:
                moved_BS = moved_BS * (self.segments_BS[:, there] == self.segments_BS[:, here])
            further_BSD[:, here, depth - 1] = moved_BS
        return replace(self, further_weights_BSD=further_BSD)
