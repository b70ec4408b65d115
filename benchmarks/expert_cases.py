"""What benchmarks/kernels.py measures of a mixture of experts, at the sizes of a layer of Qwen3-30B-A3B."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernel_case import Case, both_ways, draw, gradient_of, megatron
from benchmarks.kernel_cases import TOKENS
from mai.kernels import grouped_linear, permutation, routing

EXPERTS, PICKS, HIDDEN, FEATURES = 128, 8, 2048, 768


def router_cases() -> Iterator[Case]:
    logits, bias = draw(TOKENS, EXPERTS, dtype=torch.float32), draw(EXPERTS, dtype=torch.float32) / 10
    rule = routing.Rule(experts_per_token=PICKS, scores="sigmoid", scale=2.5)

    _, picks = routing.reference(logits, bias, rule)

    def weights_of(route: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
        return lambda logits: route(logits, bias, rule)[0]

    def with_topk(logits: Tensor) -> Tensor:
        scores = logits.sigmoid()
        picked = scores.gather(1, (scores + bias).topk(PICKS, dim=1).indices.sort(dim=1).values)
        return picked / picked.sum(dim=1, keepdim=True) * rule.scale

    def with_map(module: Any) -> Callable[[Tensor], Tensor]:
        def weights(logits: Tensor) -> Tensor:
            weights_TE, _ = module.topk_routing_with_score_function(
                logits, PICKS, scaling_factor=rule.scale, score_function="sigmoid", expert_bias=bias
            )
            # For the comparison only: it goes on with the map.
            return weights_TE.gather(1, picks)  # type: ignore[no-any-return]

        return weights

    functions = {
        "mai": weights_of(routing.fused),
        "torch": weights_of(routing.reference),
        "torch, topk": with_topk,
        "torch.compile": torch.compile(with_topk),
        "Megatron": megatron("core.transformer.moe.moe_utils", with_map),
    }
    compact = TOKENS * PICKS * (4 + 4 + 8)
    yield from both_ways(
        "router",
        functions,
        (logits,),
        forward_bytes=logits.nbytes + compact,
        backward_bytes=logits.nbytes + compact,
        exact=weights_of(routing.reference),
    )


def permutation_cases() -> Iterator[Case]:
    x, weights = draw(TOKENS, HIDDEN), draw(TOKENS, PICKS, dtype=torch.float32)
    experts = torch.randn(TOKENS, EXPERTS, device="cuda").topk(PICKS).indices.sort(dim=1).values
    yield Case(
        "MoE rows of experts",
        2 * experts.nbytes,
        {
            "mai": lambda: permutation.fused_expert_rows(experts, EXPERTS),
            "torch": lambda: permutation.reference_expert_rows(experts, EXPERTS),
        },
        exact=lambda: permutation.reference_expert_rows(experts, EXPERTS),
    )
    rows, _ = permutation.reference_expert_rows(experts, EXPERTS)
    is_picked = torch.zeros(TOKENS, EXPERTS, dtype=torch.bool, device="cuda").scatter(1, experts, value=True)

    def permuted_by_map(module: Any) -> Callable[[Tensor, Tensor], Any]:
        def permute(x: Tensor, weights: Tensor) -> Any:
            dense = weights.new_zeros(TOKENS, EXPERTS).scatter(1, experts, weights)
            return module.permute(x, is_picked, probs=dense, num_out_tokens=rows.numel())[:2]

        return permute

    def unpermuted_by_map(module: Any) -> Callable[[Tensor], Any]:
        tokens = rows.flatten().argsort() // PICKS
        return lambda y: module.unpermute(y, tokens, x.shape)

    module = "core.transformer.moe.moe_utils"
    size = (1 + PICKS) * x.nbytes
    yield from both_ways(
        "MoE permute",
        {
            "mai": lambda x, weights: permutation.fused_permute(x, weights, rows),
            "torch": lambda x, weights: permutation.reference_permute(x, weights, rows),
            "Megatron": megatron(module, permuted_by_map),
        },
        (x, weights),
        forward_bytes=size,
        backward_bytes=size,
        exact=lambda x, weights: permutation.reference_permute(x, weights, rows),
    )
    yield from both_ways(
        "MoE unpermute",
        {
            "mai": lambda y: permutation.fused_unpermute(y, rows),
            "torch": lambda y: permutation.reference_unpermute(y, rows),
            "Megatron": megatron(module, unpermuted_by_map),
        },
        (draw(TOKENS * PICKS, HIDDEN),),
        forward_bytes=size,
        backward_bytes=size,
        exact=lambda y: permutation.reference_unpermute(y, rows),
    )


def expert_cases() -> Iterator[Case]:
    """The two matrices of all experts of one card, whose tokens a router spread unevenly. What lies between them is a
    case of its own, so the second one's inputs are drawn."""
    picks = torch.randn(TOKENS, EXPERTS).add(torch.randn(EXPERTS) / 2).topk(PICKS).indices
    counts = picks.flatten().bincount(minlength=EXPERTS)
    rows = TOKENS * PICKS
    inputs = (
        draw(rows, HIDDEN),
        draw(EXPERTS, 2 * FEATURES, HIDDEN),
        draw(rows, FEATURES),
        draw(EXPERTS, HIDDEN, FEATURES),
    )
    sums = {x.shape: torch.zeros_like(x, dtype=torch.float32) for x in (inputs[1], inputs[3])}

    def both(linear: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda x, gate_and_up, activated, down: (linear(x, gate_and_up, counts), linear(activated, down, counts))

    def into_sums(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        return grouped_linear.fused(x, weight, counts, sum_EOI=sums[weight.shape])

    calls = {
        "mai": both(grouped_linear.fused),
        "mai, gradients added to fp32 sums": both(into_sums),
        "one by one": both(grouped_linear.reference),
    }
    flops = 2 * 3 * rows * HIDDEN * FEATURES
    yield Case("experts, forward", 0, {name: partial(call, *inputs) for name, call in calls.items()}, flops=flops)
    above = (draw(rows, 2 * FEATURES), draw(rows, HIDDEN))
    backward = {name: gradient_of(call, inputs, above) for name, call in calls.items()}
    yield Case("experts, backward", 0, backward, flops=2 * flops)


EXPERT_CASES = [router_cases, permutation_cases, expert_cases]
