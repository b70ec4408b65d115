"""Routing and permutation in Triton against float64, as in test_against_float64.py; moved rows to the bit."""

from dataclasses import astuple
from typing import Literal

import pytest
import torch
from torch import Tensor

from mai.kernels import permutation, routing
from mai.kernels.gpu import permutation as gpu_permutation
from mai.kernels.gpu import routing as gpu_routing
from tests.kernels.exact import DEVICE, assert_close, draw, each_dtype, exact_gradients, on_gpu_or_interpreted

pytestmark = on_gpu_or_interpreted


def groups(*, scores: Literal["softmax", "sigmoid"] = "sigmoid", **fields: int) -> routing.Rule:
    return routing.Rule(scores=scores, scale=2.5, **fields)


ROUTINGS = {
    "softmax": (5, 7, routing.Rule(experts_per_token=3, scores="softmax", scale=1.5)),
    "softmax, all": (3, 4, routing.Rule(experts_per_token=4, scores="softmax", scale=1.0)),
    "sigmoid": (37, 100, routing.Rule(experts_per_token=6, scores="sigmoid", scale=2.5)),
    "sigmoid of one": (3, 128, routing.Rule(experts_per_token=1, scores="sigmoid", scale=2.5, is_normalised=False)),
    "sigmoid of one, normalised": (3, 16, routing.Rule(experts_per_token=1, scores="sigmoid", scale=2.5)),
    "sigmoids as they are": (
        5,
        24,
        routing.Rule(experts_per_token=6, scores="sigmoid", scale=2.5, is_normalised=False),
    ),
    "groups": (19, 96, groups(experts_per_token=8, num_groups=8, groups_per_token=4, scores_per_group=2)),
    "groups by their best": (7, 32, groups(experts_per_token=3, num_groups=8, groups_per_token=2, scores_per_group=1)),
    "groups by two, filled": (7, 32, groups(experts_per_token=6, num_groups=8, groups_per_token=2, scores_per_group=2)),
    "groups of logits": (
        3,
        256,
        groups(experts_per_token=8, scores="softmax", num_groups=4, groups_per_token=2, scores_per_group=4),
    ),
    "nothing": (0, 8, routing.Rule(experts_per_token=2, scores="softmax", scale=1.0)),
}


@pytest.mark.parametrize("preference", [None, "a bias of each expert", "of each token and expert"])
@pytest.mark.parametrize("name", ROUTINGS)
def test_routing(name: str, preference: str | None) -> None:
    tokens, num_experts, rule = ROUTINGS[name]
    # A view, whose rows are not contiguous.
    logits = draw(num_experts, tokens).t()
    added = {
        None: None,
        "a bias of each expert": draw(num_experts, seed=1) / 4,
        "of each token and expert": draw(tokens, num_experts, seed=1) / 4,
    }[preference]
    weights, experts, picked = gpu_routing.forward(logits, added, *astuple(rule))
    exact, expected = routing.reference(logits.double(), added, rule)
    assert torch.equal(experts, expected)
    assert torch.equal(picked, logits.gather(1, experts))
    assert_close(weights, exact)

    above = draw(rule.experts_per_token, tokens, seed=2).t()
    (of_logits,) = exact_gradients(lambda x: routing.reference(x, added, rule)[0], logits, gradient=above)
    ours = gpu_routing.backward(picked, experts, above, num_experts, rule.scores, rule.scale, rule.is_normalised)
    assert_close(ours, of_logits)


def test_routing_picks_the_first_of_equal_scores_and_only_experts_that_exist() -> None:
    infinite, nan = float("inf"), float("nan")
    logits = torch.tensor([[0.0, -0.0, 0.0, 1.0, 0.0], [-infinite] * 5, [nan] * 5, [0.0, nan, 1.0, infinite, 0.0]])
    rule = routing.Rule(experts_per_token=3, scores="softmax", scale=1.0)
    _, experts, _ = gpu_routing.forward(logits.to(DEVICE), None, *astuple(rule))
    assert experts.tolist() == [[0, 1, 3], [0, 1, 2], [0, 1, 2], [1, 2, 3]]
    assert torch.equal(experts, routing.reference(logits.to(DEVICE), None, rule)[1])


def picked_experts(tokens: int, experts_per_token: int, num_experts: int) -> Tensor:
    return draw(tokens, num_experts, seed=3).topk(experts_per_token).indices


@pytest.mark.parametrize(
    ("tokens", "picks", "num_experts"), [(1, 1, 1), (3, 2, 5), (100, 6, 100), (40, 8, 8), (0, 2, 4)]
)
def test_expert_rows(tokens: int, picks: int, num_experts: int) -> None:
    # A view: Megatron's micro-batches have positions ahead of sequences.
    experts = picked_experts(tokens, picks, num_experts).t().contiguous().t()
    rows, counts = gpu_permutation.expert_rows(experts, num_experts)
    expected_rows, expected_counts = permutation.reference_expert_rows(experts, num_experts)
    assert torch.equal(rows, expected_rows)
    assert torch.equal(counts, expected_counts)


@each_dtype
@pytest.mark.parametrize(("tokens", "picks", "features"), [(1, 1, 1), (7, 3, 40), (3, 8, 2049), (5, 1, 64), (0, 2, 8)])
def test_permutation(dtype: torch.dtype, tokens: int, picks: int, features: int) -> None:
    rows, _ = permutation.reference_expert_rows(picked_experts(tokens, picks, 9), 9)
    x, weights = draw(features, tokens, dtype=dtype).t(), draw(picks, tokens, seed=1).t()
    ours, ours_weights = gpu_permutation.permute(x, weights, rows)
    expected, expected_weights = permutation.reference_permute(x, weights, rows)
    assert torch.equal(ours, expected)
    assert torch.equal(ours_weights, expected_weights)
    assert torch.equal(gpu_permutation.unpermute_backward(x, rows), expected)

    above, of_weights = draw(features, tokens * picks, dtype=dtype, seed=2).t(), draw(tokens * picks, seed=3)
    exact = permutation.reference_unpermute(above.double(), rows)
    of_x, of_weights_before = gpu_permutation.permute_backward(above, of_weights, rows)
    assert_close(of_x, exact)
    assert torch.equal(of_weights_before, of_weights[rows])
    assert_close(gpu_permutation.unpermute(above, rows), exact)
