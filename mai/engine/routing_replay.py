"""Write down which experts each token went to, and send it there again under another layout.

Where two experts score almost alike, rounding decides between them, and every layout rounds in another way: one token
that changes its expert hides whether everything else is right. So a comparison of layouts replays the routing of one.

    one rank       record -> forward and backward -> written        Picks of the step
    any layout     follow(Picks) -> forward and backward

Megatron's own replay (transformer/moe/router_replay.py, core 0.16.1) knows the last micro-batch of a layer only, and
only this rank's tokens; this one knows the whole step.

Shapes: N sequences of a step, B of a micro-batch, S positions, L of this rank, T = L * B tokens, K experts of a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Picks = dict[str, Tensor]
"""The experts [N, S, K] that a step's tokens went to, by the name of the choice; int64, on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTokens:
    """Which tokens of a step come through this rank's routers."""

    sequences: range
    """Which of the N sequences; micro-batches are taken from them in order."""
    positions_L: Tensor


class Recorder:
    """Lets the scores decide and keeps the choice."""

    def __init__(self) -> None:
        self._micro_batches: list[Tensor] = []

    def followed(self, picks_TK: Tensor) -> Tensor:
        """The experts that the scores picked."""
        # A recomputed layer runs twice in a step, the first time without gradients.
        if torch.is_grad_enabled():
            self._micro_batches.append(picks_TK.cpu())
        return picks_TK

    @property
    def has_any(self) -> bool:
        return bool(self._micro_batches)

    def written(self, *, micro_batch_sequences: int) -> Tensor:
        """The step's picks [N, S, K], of a rank that holds whole sequences and all of them."""
        each = [picks.unflatten(0, (-1, micro_batch_sequences)).transpose(0, 1) for picks in self._micro_batches]
        return torch.cat(each)


class Follower:
    """Takes the choices of another run, micro-batch by micro-batch, whatever the scores say."""

    def __init__(self, micro_batches: Sequence[Tensor]) -> None:
        # A recomputed layer runs twice in a step, each time over all micro-batches in order: without gradients, then
        # with them.
        self._ahead: dict[bool, Iterator[Tensor]] = {grad: iter(micro_batches) for grad in (False, True)}

    def followed(self, picks_TK: Tensor) -> Tensor:
        """The other run's experts instead of those that the scores picked."""
        others_TK = next(self._ahead[torch.is_grad_enabled()], None)
        assert others_TK is not None, "one replay is for one forward and backward pass"
        return others_TK.to(picks_TK.device)


def own_micro_batches(picks_NSK: Tensor, own: OwnTokens, *, micro_batch_sequences: int) -> list[Tensor]:
    """This rank's tokens of each micro-batch, in the order in which its routers see them: [L * B, K] each."""
    picks_NLK = picks_NSK[own.sequences.start : own.sequences.stop][:, own.positions_L]
    return [picks.transpose(0, 1).flatten(0, 1) for picks in picks_NLK.split(micro_batch_sequences)]
