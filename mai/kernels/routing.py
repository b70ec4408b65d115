"""The choice of a mixture of experts: of each token's logits the experts that compute it, and with which weight.

Shapes: T tokens, E experts, K picked ones of a token, G groups of neighbouring experts.
"""

from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mai.kernels.operators import operator


@dataclass(frozen=True, slots=True)
class Rule:
    """How a token's logits become a choice and weights, in the order of the operator's arguments."""

    experts_per_token: int
    scores: Literal["softmax", "sigmoid"]
    """Scores are the softmax over all logits, or the sigmoid of each."""
    scale: float
    """Factor on the weights."""
    is_normalised: bool = True
    """Weights are the picked scores over their sum (Mixtral, arXiv 2401.04088, section 2.1; DeepSeek-V3, arXiv
    2412.19437, equations 12 to 16), or the scores themselves (Switch, arXiv 2101.03961; DeepSeek-V2, arXiv 2405.04434,
    equation 21)."""
    num_groups: int = 1
    groups_per_token: int = 1
    scores_per_group: int = 1
    """A token's experts come from `groups_per_token` groups: those with the largest sum of so many of their best
    scores."""


def reference(logits_TE: Tensor, preference_TE: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor]:
    """Weights [T, K] in the dtype of the logits, and the picked experts [T, K], int64, ascending.

    `preference_TE` is added to the scores for the choice and counts in no weight. Of equal ones the first is picked."""
    experts_TK = _choice(logits_TE.detach(), preference_TE, rule)
    if rule.scores == "softmax" and not rule.is_normalised:
        return logits_TE.softmax(dim=1).gather(1, experts_TK) * rule.scale, experts_TK
    return _weights(logits_TE.gather(1, experts_TK), rule), experts_TK


def fused(logits_TE: Tensor, preference_TE: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor]:
    """`reference` of fp32 logits in one launch each way; scores that need all logits' sum are the reference itself."""
    if rule.scores == "softmax" and not rule.is_normalised:
        return reference(logits_TE, preference_TE, rule)
    return _Routing.apply(logits_TE, preference_TE, rule)  # type: ignore[no-any-return,no-untyped-call]


class _Routing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_TE: Tensor, preference_TE: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor]:
        weights_TK, experts_TK, picked_TK = _forward(logits_TE, preference_TE, *astuple(rule))
        # Of the logits only the picked ones: all of them, of every layer, would be kept for K of E numbers.
        ctx.save_for_backward(picked_TK, experts_TK)
        ctx.mark_non_differentiable(experts_TK)
        ctx.num_experts, ctx.rule = logits_TE.size(1), rule
        return weights_TK, experts_TK

    @staticmethod
    def backward(ctx: Any, gradient_TK: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        rule = ctx.rule
        of_logits_TE = _backward(
            *ctx.saved_tensors, gradient_TK, ctx.num_experts, rule.scores, rule.scale, rule.is_normalised
        )
        return of_logits_TE, None, None


def _choice(logits_TE: Tensor, preference_TE: Tensor | None, rule: Rule) -> Tensor:
    scores_TE = logits_TE.sigmoid() if rule.scores == "sigmoid" else logits_TE
    if preference_TE is not None:
        scores_TE = scores_TE + preference_TE
    if rule.num_groups > 1:
        best_TG = scores_TE.unflatten(1, (rule.num_groups, -1)).sort(dim=-1, descending=True).values
        best_TG = best_TG[..., : rule.scores_per_group].sum(dim=-1)
        is_open_TG = torch.zeros_like(best_TG, dtype=torch.bool)
        is_open_TG.scatter_(1, _largest(best_TG, rule.groups_per_token), value=True)
        is_open_TE = is_open_TG.repeat_interleave(scores_TE.size(1) // rule.num_groups, dim=1)
        scores_TE = scores_TE.masked_fill(~is_open_TE, -torch.inf)
    return _largest(scores_TE, rule.experts_per_token).sort(dim=1).values


def _largest(x_TE: Tensor, count: int) -> Tensor:
    # Not topk, which leaves open what it picks of equal numbers.
    return x_TE.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _weights(picked_TK: Tensor, rule: Rule) -> Tensor:
    if rule.scores == "softmax":
        return picked_TK.softmax(dim=1) * rule.scale
    scores_TK = picked_TK.sigmoid()
    if rule.is_normalised:
        scores_TK = scores_TK / (scores_TK.sum(dim=1, keepdim=True) + 1e-20)
    return scores_TK * rule.scale


def _cpu_forward(logits_TE: Tensor, preference_TE: Tensor | None, *rule: Any) -> tuple[Tensor, Tensor, Tensor]:
    experts_TK = _choice(logits_TE, preference_TE, Rule(*rule))
    picked_TK = logits_TE.gather(1, experts_TK)
    return _weights(picked_TK, Rule(*rule)), experts_TK, picked_TK


def _cpu_backward(
    picked_TK: Tensor,
    experts_TK: Tensor,
    gradient_TK: Tensor,
    num_experts: int,
    scores: str,
    scale: float,
    is_normalised: bool,  # noqa: FBT001 (an operator's arguments go by position)
) -> Tensor:
    if scores == "sigmoid":
        scores_TK = picked_TK.sigmoid()
        slope_TK = scores_TK * (-picked_TK).sigmoid()
        total = scores_TK.sum(dim=1, keepdim=True)
    else:
        scores_TK = slope_TK = picked_TK.softmax(dim=1)
        total = torch.ones_like(scores_TK[:, :1])
    of_scores_TK = gradient_TK
    if is_normalised:
        of_scores_TK = (gradient_TK - (gradient_TK * scores_TK).sum(dim=1, keepdim=True) / total) / total
    of_logits_TE = picked_TK.new_zeros((picked_TK.size(0), num_experts))
    return of_logits_TE.scatter_(1, experts_TK, scale * of_scores_TK * slope_TK)


def _fake_forward(logits: Tensor, preference: Tensor | None, experts_per_token: int, *_: Any) -> tuple[Tensor, ...]:
    shape = (logits.size(0), experts_per_token)
    return logits.new_empty(shape), logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape)


_forward = operator(
    "routing(Tensor logits, Tensor? preference, int experts_per_token, str scores, float scale, bool is_normalised, "
    "int num_groups, int groups_per_token, int scores_per_group) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_forward,
    cuda="routing.forward",
    fake=_fake_forward,
)
_backward = operator(
    "routing_backward(Tensor picked, Tensor experts, Tensor gradient, int num_experts, str scores, float scale, "
    "bool is_normalised) -> Tensor",
    cpu=_cpu_backward,
    cuda="routing.backward",
    fake=lambda picked, experts, gradient, num_experts, *_: picked.new_empty((picked.size(0), num_experts)),
)
