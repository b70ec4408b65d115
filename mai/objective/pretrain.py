"""Next-token prediction: every token of every sequence counts the same, unless the recipe names a loss of its own."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mai.batch import Batch
from mai.engine.engine import Loss
from mai.errors import RecipeError
from mai.recipe import ObjectiveConfig
from mai.recipe.named_function import load_function


class Sequences(Protocol):
    """Of a corpus (data/loader.py) or made up (data/synthetic.py)."""

    def at(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """[len(positions), sequence_length + 1] tokens."""


def batch_at(sequences: Sequences, positions: Sequence[int]) -> Batch:
    """The sequences at these positions, each against itself moved by one token."""
    tokens_BS1 = torch.from_numpy(sequences.at(positions))
    return Batch(tokens_BS=tokens_BS1[:, :-1].contiguous(), targets_BS=tokens_BS1[:, 1:].contiguous())


def cross_entropy(token_losses_BS: Tensor, batch: Batch) -> Tensor:
    """Sum of the tokens' cross entropies, nats."""
    return token_losses_BS.float().sum()


def loss_of(objective: ObjectiveConfig) -> Loss:
    """What is trained on: the recipe's own loss, or `cross_entropy`. Raises RecipeError where its own is no scalar."""
    if objective.loss is None:
        return cross_entropy
    own = load_function(objective.loss, knob="objective.loss")

    def scalar(token_losses_BS: Tensor, batch: Batch) -> Tensor:
        value = own(token_losses_BS, batch)
        if not isinstance(value, Tensor) or value.dim() > 0:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise RecipeError(
                f"objective.loss={objective.loss}: returned {type(value).__name__}{shape}; return the sum to train on, "
                "a tensor without dims"
            )
        return value

    return scalar
