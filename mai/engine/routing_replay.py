"""Write down which experts each token went to, and send it there again under another layout.

Where two experts score almost alike, rounding decides between them, and every layout rounds in another way: one token
that changes its expert hides whether everything else is right. So a comparison of layouts replays the routing of one.

    one rank       record -> forward and backward -> written        Picks of the step
    any layout     follow(Picks) -> forward and backward

Megatron's own replay (transformer/moe/router_replay.py, core 0.16.1) knows the last micro-batch of a layer only, and
only this rank's tokens; this one stands at the same seam and knows the whole step.

Shapes: N sequences of a step, B of a micro-batch, S positions, L of this rank, K experts of a token, E experts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Picks = dict[str, Tensor]
"""The experts [N, S, K] that a step's tokens went to, by the name of the choice; int64, on the CPU."""

_TopK = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTokens:
    """Which tokens of a step come through this rank's routers."""

    sequences: range
    """Of the N sequences; micro-batches are taken from them in order."""
    positions_L: Tensor


class Recorder:
    """Lets the scores decide and keeps the choice."""

    def __init__(self) -> None:
        self._micro_batches: list[Tensor] = []

    def get_replay_topk(
        self, scores_TE: Tensor, topk: int, num_groups: None, group_topk: None, choose: _TopK
    ) -> tuple[Tensor, Tensor]:
        """Megatron's seam (transformer/moe/moe_utils.py, topk_routing_with_score_function)."""
        values_TK, picks_TK = choose(scores_TE, topk, num_groups, group_topk)
        # A recomputed layer runs twice in a step, the first time without gradients.
        if torch.is_grad_enabled():
            self._micro_batches.append(picks_TK.cpu())
        return values_TK, picks_TK

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

    def get_replay_topk(
        self, scores_TE: Tensor, topk: int, num_groups: None, group_topk: None, choose: _TopK
    ) -> tuple[Tensor, Tensor]:
        """Megatron's seam, as above."""
        picks_TK = next(self._ahead[torch.is_grad_enabled()], None)
        assert picks_TK is not None, "one replay is for one forward and backward pass"
        picks_TK = picks_TK.to(scores_TE.device)
        return scores_TE.gather(1, picks_TK), picks_TK


def own_micro_batches(picks_NSK: Tensor, own: OwnTokens, *, micro_batch_sequences: int) -> list[Tensor]:
    """This rank's tokens of each micro-batch, in the order in which its routers see them: [L * B, K] each."""
    picks_NLK = picks_NSK[own.sequences.start : own.sequences.stop][:, own.positions_L]
    return [picks.transpose(0, 1).flatten(0, 1) for picks in picks_NLK.split(micro_batch_sequences)]
