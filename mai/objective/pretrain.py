"""Next-token prediction: every token of every sequence counts the same, unless the recipe names a loss of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mai.batch import Batch
from mai.engine.engine import Loss, summed
from mai.objective.interface import Sequences


@dataclass(frozen=True, slots=True)
class Pretrain:
    """An `Objective`."""

    own_loss: Loss | None = None
    """Instead of the sum of the token losses."""

    def batch(self, sequences: Sequences, positions: Sequence[int]) -> Batch:
        """The sequences at these positions, each against itself moved by one token."""
        tokens_BS1 = torch.from_numpy(sequences.at(positions))
        return Batch(tokens_BS=tokens_BS1[:, :-1].contiguous(), targets_BS=tokens_BS1[:, 1:].contiguous())

    def loss(self, token_losses_BS: Tensor, batch: Batch) -> Tensor:
        """The recipe's own, or the sum of the tokens' cross entropies, nats."""
        return (self.own_loss or summed)(token_losses_BS, batch)
