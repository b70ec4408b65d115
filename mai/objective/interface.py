"""What is trained for: which batch is read at some positions of the data, and which loss its token losses make.

A new objective is a file beside this one, its field in `mai/recipe/objective.py` and a line in `choose_objective.py`.
It never sees a layout: the engine cuts its batches over ranks and micro-batches, and divides by the targets that count
in all.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mai.batch import Batch


class Sequences(Protocol):
    """Sequences of a corpus (data/loader.py), or made up (data/synthetic.py)."""

    def at(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """[len(positions), sequence_length + 1] tokens."""


class Objective(Protocol):
    """A pure value: the same on every rank, and nothing in it changes."""

    def batch(self, sequences: Sequences, positions: Sequence[int]) -> Batch:
        """What the engine computes of the sequences at these positions, to train and to judge."""

    def loss(self, token_losses_BS: Tensor, batch: Batch) -> Tensor:
        """The sum to train on, a scalar, of a part of a batch and its token losses in nats."""
