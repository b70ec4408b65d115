"""Next-token prediction: every token of every sequence counts the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mai.batch import Batch
from mai.data.loader import Sequences


def batch_at(sequences: Sequences, positions: Sequence[int]) -> Batch:
    """The sequences at these positions, each against itself moved by one token."""
    tokens_BS1 = torch.from_numpy(sequences.at(positions))
    return Batch(tokens_BS=tokens_BS1[:, :-1].contiguous(), targets_BS=tokens_BS1[:, 1:].contiguous())


def loss(token_losses_BS: Tensor, batch: Batch) -> Tensor:
    """Sum of the tokens' cross entropies, nats."""
    return token_losses_BS.float().sum()
