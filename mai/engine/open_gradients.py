"""A step's gradients between the backward pass and the update, for a user's function to look at or change."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from mai.collectives import sum_floats
from mai.engine.shard import Shard


class OpenGradients:
    """Summed over all ranks, not clipped yet. Every rank holds a part; all ranks call each method, with the same
    functions."""

    def __init__(
        self,
        shards: list[Shard],
        *,
        names: Iterable[str],
        step: int,
        loss: float,
        norm: float,
        expert_tokens: Mapping[int, Sequence[int]],
        device: torch.device,
    ) -> None:
        """`names`: of all parameters of the model, in the same order on every rank."""
        self.step = step
        """The step that they are of, counted from 1 over the whole run."""
        self.loss, self.norm = loss, norm
        """Mean loss of the batch, nats, and the global L2 norm, as the backward pass left them."""
        self.expert_tokens = expert_tokens
        """How many of the step's tokens picked each expert, by layer from 0; empty without experts."""
        self.names = tuple(names)
        """Global names of all parameters, such as decoder.layers.0.mlp.linear_fc1.weight."""
        self._shards, self._device = shards, device

    def norms(self, by: Callable[[str], str | None]) -> dict[str, float]:
        """L2 norms of groups of parameters, the same on every rank. `by` gives a parameter's group from its name, or
        None to leave it out.

        Example:
            gradients.norms(lambda name: ".".join(name.split(".")[:3]))     # layer by layer
        """
        groups = list(dict.fromkeys(group for group in map(by, self.names) if group is not None))
        place = {group: index for index, group in enumerate(groups)}
        squares = [0.0] * len(groups)
        for shard in self._shards:
            # A replica's rank would count it twice.
            if not shard.block.is_replica and (group := by(shard.block.name)) is not None:
                squares[place[group]] += float(_gradient(shard).double().square().sum())
        sums = sum_floats(squares, device=self._device)
        return {group: math.sqrt(square) for group, square in zip(groups, sums, strict=True)}

    def scale(self, factor: Callable[[str], float]) -> None:
        """Multiply each parameter's gradient by what `factor` gives for its name; 0 keeps it from moving by it."""
        for shard in self._shards:
            if (by := factor(shard.block.name)) != 1:
                _gradient(shard).mul_(by)

    def shards(self) -> list[Shard]:
        """This rank's parts, as live fp32 tensors under the state `gradient`. Who writes into them writes the same on
        every rank that holds the same part (`block.is_replica`)."""
        return self._shards


def _gradient(shard: Shard) -> torch.Tensor:
    return shard.tensors["gradient"]
