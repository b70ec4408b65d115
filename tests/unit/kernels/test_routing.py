"""Routing and permutation on small numbers, against loops written out plainly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.kernels import permutation, routing

E, T = 8, 6


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("route", [routing.reference, routing.fused])
def test_experts_come_from_the_groups_with_the_largest_sums_of_their_best(route: Callable[..., Any]) -> None:
    """DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): here two of four groups of two, with two of four experts each."""
    rule = routing.Rule(experts_per_token=2, scores="sigmoid", scale=1.0, num_groups=4, groups_per_token=2)
    logits_TE, bias_E = 3 * draw(T, E), 0.1 * draw(E)
    _, experts_TK = route(logits_TE, bias_E, rule)
    for logits_E, experts in zip(logits_TE, experts_TK.tolist(), strict=True):
        scores = (logits_E.sigmoid() + bias_E).tolist()
        by_best = sorted(range(4), key=lambda group: -max(scores[2 * group : 2 * group + 2]))
        open_experts = [expert for expert in range(E) if expert // 2 in by_best[:2]]
        assert experts == sorted(sorted(open_experts, key=lambda expert: -scores[expert])[:2])


@pytest.mark.parametrize("route", [routing.reference, routing.fused])
def test_the_first_of_equal_scores_is_picked_and_picks_ascend(route: Callable[..., Any]) -> None:
    rule = routing.Rule(experts_per_token=3, scores="softmax", scale=1.0)
    logits_TE = torch.tensor([[0.0, 2.0, 0.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    _, experts_TK = route(logits_TE, None, rule)
    assert experts_TK.tolist() == [[0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("of", [permutation.reference_expert_rows, permutation.fused_expert_rows])
def test_rows_are_sorted_by_expert_and_those_of_an_expert_by_token(of: Callable[..., Any]) -> None:
    experts_TK = draw(T, E).topk(3).indices
    rows_TK, counts_E = of(experts_TK, E)
    pairs = sorted((expert, token) for token, experts in enumerate(experts_TK.tolist()) for expert in experts)
    for token, (experts, rows) in enumerate(zip(experts_TK.tolist(), rows_TK.tolist(), strict=True)):
        assert rows == [pairs.index((expert, token)) for expert in experts]
    assert counts_E.tolist() == [sum(expert == one for one, _ in pairs) for expert in range(E)]


def test_rows_of_several_ranks_are_cut_and_joined_by_expert() -> None:
    counts_RE = torch.tensor([[2, 0, 3], [0, 1, 4]])
    x_N = torch.arange(10)
    chunks = [chunk.split(counts.tolist()) for chunk, counts in zip(x_N.split([5, 5]), counts_RE, strict=True)]
    joined = torch.cat([of_rank[expert] for expert in range(3) for of_rank in chunks])
    rows_N1 = permutation.chunk_rows(counts_RE, 10)
    sorted_N1, _ = permutation.reference_permute(x_N[:, None], x_N[:, None], rows_N1)
    assert torch.equal(sorted_N1[:, 0], joined)


def test_a_token_gets_the_sum_of_its_rows_rounded_once() -> None:
    rows_TK, _ = permutation.reference_expert_rows(torch.tensor([[0, 1, 2]]), 3)
    # In bf16, 256 + 1 is 256 again.
    x_NH = torch.tensor([[256.0], [1.0], [1.0]], dtype=torch.bfloat16)
    for unpermute in (permutation.reference_unpermute, permutation.fused_unpermute):
        assert unpermute(x_NH, rows_TK).item() == 258
