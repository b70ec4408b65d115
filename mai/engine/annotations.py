"""What a micro-batch says of its tokens besides what they are, on its way to the modules that ask: attention
for segments and positions, routers and the output layer for weights.

It travels as Megatron's `packed_seq_params`, which every layer gets with its arguments: a layer that is computed again
in the backward pass, when other micro-batches have gone forward since, gets that of its own.

Shapes: B sequences, L positions of this context rank, S positions of the model's longest sequence, D head size.
"""

from torch import Tensor

from mai.batch import Batch


class Annotations:
    """What one micro-batch says, as this context rank holds it; a batch that says nothing has none."""

    qkv_format = "sbhd"
    """Megatron's modules ask for it, and do something else for "thd"."""

    def __init__(self, batch: Batch, *, tensor_rank: int, sequence_ranks: int) -> None:
        """`tensor_rank`, `sequence_ranks`: of the tensor ranks that cut the sequence between them; 0 of 1 where they
        do not."""
        self._batch, self._tensor_rank, self._sequence_ranks = batch, tensor_rank, sequence_ranks
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def starts(self) -> Tensor | None:
        """Where in the row the segment of each position begins, [B, L]."""
        return self._batch.segments_BS

    def tables(self, cos_SD: Tensor, sin_SD: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin [L, B, D] of the batch's own positions; None where it has none. Made once for all layers that
        share a table: attention keeps them for its backward pass."""
        if self._batch.positions_BS is None:
            return None
        if id(cos_SD) not in self._tables:
            positions_LB = self._batch.positions_BS.t()
            self._tables[id(cos_SD)] = (cos_SD[positions_LB], sin_SD[positions_LB])
        return self._tables[id(cos_SD)]

    def weights(self, depth: int) -> Tensor | None:
        """What the losses of this depth's targets are multiplied with, [B, L]; None where all of depth 0 count 1."""
        if depth == 0:
            return self._batch.weights_BS
        assert self._batch.further_weights_BSD is not None
        return self._batch.further_weights_BSD[..., depth - 1]

    def uncounted(self, depth: int) -> Tensor | None:
        """Which of the tokens that this rank's routers see do not count, [B, tokens of each] bool."""
        weights_BL = self.weights(depth)
        if weights_BL is None:
            return None
        return (weights_BL == 0).chunk(self._sequence_ranks, dim=1)[self._tensor_rank]
