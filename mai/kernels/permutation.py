"""Tokens sorted by the experts that compute them, and their outputs summed back: rows are moved and added in a fixed
order, without atomics, so that a repeated step gives the same bits on a GPU too.

    expert_rows   picked experts -> which row each token takes at each of them, and how many rows each expert has
    permute       tokens -> their copies, sorted by expert
    unpermute     outputs of the experts -> the sum of each token's

Rows that come from several ranks, of each sorted by expert, are sorted by expert over all of them in the same way, each
row as a token of one expert: `chunk_rows`.

Shapes: T tokens, K picked experts of a token, N = T * K rows, H features, E experts, R ranks.
"""

from typing import Any

import torch
from torch import Tensor

from mai.kernels.operators import operator, wide


def reference_expert_rows(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Row [T, K] of each token among those of its k-th expert, and rows of each expert [E]; both int64.

    Rows are sorted by expert, those of an expert by token. A token's experts differ from each other."""
    order_N = experts_TK.flatten().argsort(stable=True)
    rows_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(order_N.numel(), device=order_N.device))
    counts_E = torch.bincount(experts_TK.flatten(), minlength=num_experts)
    return rows_N.view_as(experts_TK), counts_E


def fused_expert_rows(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """`reference_expert_rows`: a counting sort, during which the host waits for nothing."""
    return _expert_rows(experts_TK, num_experts)  # type: ignore[no-any-return]


def reference_permute(tokens_TH: Tensor, weights_TK: Tensor, rows_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's features in its rows [N, H], and there what its router gave it for each [N]."""
    order_N = rows_TK.flatten().argsort()
    return tokens_TH[order_N // rows_TK.size(1)], weights_TK.flatten()[order_N]


def fused_permute(tokens_TH: Tensor, weights_TK: Tensor, rows_TK: Tensor) -> tuple[Tensor, Tensor]:
    """`reference_permute`: each token is read once, and the sum of its rows' gradients is rounded once."""
    return _Permute.apply(tokens_TH, weights_TK, rows_TK)  # type: ignore[no-any-return,no-untyped-call]


def reference_unpermute(x_NH: Tensor, rows_TK: Tensor) -> Tensor:
    """The sum of each token's rows [T, H], in fp32, rounded once."""
    # Not `wide`, which would hold all rows in fp32.
    return x_NH[rows_TK].sum(dim=1, dtype=torch.promote_types(x_NH.dtype, torch.float32)).to(x_NH.dtype)


def fused_unpermute(x_NH: Tensor, rows_TK: Tensor) -> Tensor:
    """`reference_unpermute` in one reading each way."""
    return _Unpermute.apply(x_NH, rows_TK)  # type: ignore[no-any-return,no-untyped-call]


def chunk_rows(counts_RE: Tensor, num_rows: int) -> Tensor:
    """Row [N, 1] of each that came, by rank and of a rank by expert, among them all by expert and of an expert by rank.

    `num_rows` is the sum of the counts, which the host knows: it waits for nothing."""
    comes_RE = counts_RE.flatten().cumsum(0).view_as(counts_RE) - counts_RE
    by_expert_ER = counts_RE.t().contiguous()
    goes_ER = by_expert_ER.flatten().cumsum(0).view_as(by_expert_ER) - by_expert_ER
    shift_N = (goes_ER.t() - comes_RE).flatten().repeat_interleave(counts_RE.flatten(), output_size=num_rows)
    return (torch.arange(num_rows, device=counts_RE.device) + shift_N)[:, None]


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_TH: Tensor, weights_TK: Tensor, rows_TK: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows_TK)
        return _permute(tokens_TH, weights_TK, rows_TK)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_NH: Tensor, of_weights_N: Tensor) -> tuple[Tensor, Tensor, None]:
        (rows_TK,) = ctx.saved_tensors
        return *_permute_backward(gradient_NH, of_weights_N, rows_TK), None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, rows_TK: Tensor) -> Tensor:
        ctx.save_for_backward(rows_TK)
        return _unpermute(x_NH, rows_TK)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_TH: Tensor) -> tuple[Tensor, None]:
        return _unpermute_backward(gradient_TH, ctx.saved_tensors[0]), None


def _cpu_spread(tokens_TH: Tensor, rows_TK: Tensor) -> Tensor:
    out_NH = tokens_TH.new_empty((rows_TK.numel(), tokens_TH.size(1)))
    out_NH[rows_TK] = tokens_TH[:, None]
    return out_NH


def _cpu_permute(tokens_TH: Tensor, weights_TK: Tensor, rows_TK: Tensor) -> tuple[Tensor, Tensor]:
    weights_N = weights_TK.new_empty(rows_TK.numel())
    weights_N[rows_TK] = weights_TK
    return _cpu_spread(tokens_TH, rows_TK), weights_N


def _cpu_sum(x_NH: Tensor, rows_TK: Tensor) -> Tensor:
    total_TH = wide(x_NH[rows_TK[:, 0]])
    for rows_T in rows_TK.unbind(dim=1)[1:]:
        total_TH += x_NH[rows_T]
    return total_TH.to(x_NH.dtype)


def _tokens_like(x: Tensor, rows: Tensor) -> Tensor:
    return x.new_empty((rows.size(0), x.size(1)))


def _rows_like(x: Tensor, rows: Tensor) -> Tensor:
    return x.new_empty((rows.numel(), x.size(1)))


_expert_rows = operator(
    "expert_rows(Tensor experts, int num_experts) -> (Tensor, Tensor)",
    cpu=reference_expert_rows,
    cuda="permutation.expert_rows",
    fake=lambda experts, num_experts: (experts.new_empty(experts.shape), experts.new_empty((num_experts,))),
)
_permute = operator(
    "permute(Tensor tokens, Tensor weights, Tensor rows) -> (Tensor, Tensor)",
    cpu=_cpu_permute,
    cuda="permutation.permute",
    fake=lambda tokens, weights, rows: (_rows_like(tokens, rows), weights.new_empty((rows.numel(),))),
)
_permute_backward = operator(
    "permute_backward(Tensor gradient, Tensor of_weights, Tensor rows) -> (Tensor, Tensor)",
    cpu=lambda gradient_NH, of_weights_N, rows_TK: (_cpu_sum(gradient_NH, rows_TK), of_weights_N[rows_TK]),
    cuda="permutation.permute_backward",
    fake=lambda gradient, of_weights, rows: (_tokens_like(gradient, rows), of_weights.new_empty(rows.shape)),
)
_unpermute = operator(
    "unpermute(Tensor x, Tensor rows) -> Tensor",
    cpu=_cpu_sum,
    cuda="permutation.unpermute",
    fake=_tokens_like,
)
_unpermute_backward = operator(
    "unpermute_backward(Tensor gradient, Tensor rows) -> Tensor",
    cpu=_cpu_spread,
    cuda="permutation.unpermute_backward",
    fake=_rows_like,
)
