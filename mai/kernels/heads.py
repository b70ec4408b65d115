"""Queries, keys and values out of one product: cut apart, RMSNorm of each query and key head where a model has it
(Qwen3, arXiv 2505.09388, section 2), then turned by their positions (`rope.py`).

The product holds one group of heads after the other: its query heads, its key head, its value head (Megatron-Core's
linear_qkv, transformer/attention.py).
Shapes: S positions, B sequences, H query heads, G key and value heads, D head size, F = (H + 2 G) D features.
"""

from typing import Any

import torch
from torch import Tensor

from mai.kernels import rms_norm, rope
from mai.kernels.operators import operator, wide

Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]


def reference(
    product_SBF: Tensor, tables: Pair | None, weights: Pair | None, *, heads: int, key_heads: int, epsilon: float
) -> Triple:
    """Queries [S, B, H, D], keys and values [S, B, G, D].

    `tables`: cos and sin of `rope.py`; None turns nothing. `weights`: of the queries' and of the keys' norm,
    [D]; None norms nothing. The norm rounds to the product's dtype before the turn."""
    query_SBHD, key_SBGD, value_SBGD = _cut(product_SBF, heads, key_heads)
    if weights is not None:
        query_SBHD, key_SBGD = (
            rms_norm.reference(x, weight_D, epsilon=epsilon)
            for x, weight_D in zip((query_SBHD, key_SBGD), weights, strict=True)
        )
    if tables is not None:
        query_SBHD, key_SBGD = (rope.reference(x, *tables) for x in (query_SBHD, key_SBGD))
    return query_SBHD, key_SBGD, value_SBGD


def fused(
    product_SBF: Tensor, tables: Pair | None, weights: Pair | None, *, heads: int, key_heads: int, epsilon: float
) -> Triple:
    """`reference`, contiguous, in one reading each way; rounded once. The product may have any strides but for F's."""
    cos, sin = tables or (None, None)
    query_weight_D, key_weight_D = weights or (None, None)
    return _Heads.apply(  # type: ignore[no-any-return,no-untyped-call]
        product_SBF, cos, sin, query_weight_D, key_weight_D, heads, key_heads, epsilon
    )


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product_SBF: Tensor, *arguments: Any) -> Triple:
        cos, sin, query_weight_D, key_weight_D, _, _, ctx.epsilon = arguments
        # Without norms the gradient asks for no input, and the product's memory is free.
        kept_SBF = None if query_weight_D is None else product_SBF
        ctx.save_for_backward(kept_SBF, cos, sin, query_weight_D, key_weight_D)
        return _forward(product_SBF, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        product_SBF, cos, sin, *weights = ctx.saved_tensors
        if product_SBF is None:
            return _backward(*gradients, cos, sin), *[None] * 7
        of_product, *of_weights = _normed_backward(*gradients, cos, sin, product_SBF, *weights, ctx.epsilon)
        return of_product, None, None, *of_weights, None, None, None


def _cut(product_SBF: Tensor, heads: int, key_heads: int) -> Triple:
    each_SBGRD = product_SBF.unflatten(-1, (key_heads, heads // key_heads + 2, -1))
    return each_SBGRD[..., :-2, :].flatten(2, 3), each_SBGRD[..., -2, :], each_SBGRD[..., -1, :]


def _join(of_query_SBHD: Tensor, of_key_SBGD: Tensor, of_value_SBGD: Tensor, *, dtype: torch.dtype) -> Tensor:
    *outer, heads, size = of_query_SBHD.shape
    key_heads = of_key_SBGD.size(2)
    joined_SBGRD = of_query_SBHD.new_empty((*outer, key_heads, heads // key_heads + 2, size), dtype=dtype)
    joined_SBGRD[..., :-2, :] = of_query_SBHD.unflatten(2, (key_heads, -1))
    joined_SBGRD[..., -2, :] = of_key_SBGD
    joined_SBGRD[..., -1, :] = of_value_SBGD
    return joined_SBGRD.flatten(2)


def _turn_back(gradient_SBHD: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    if cos is None or sin is None:
        return wide(gradient_SBHD)
    return rope.reference(wide(gradient_SBHD), cos, -sin)


def _cpu_forward(
    product_SBF: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_weight_D: Tensor | None,
    key_weight_D: Tensor | None,
    heads: int,
    key_heads: int,
    epsilon: float,
) -> Triple:
    tables = None if cos is None or sin is None else (cos, sin)
    weights = None if query_weight_D is None or key_weight_D is None else (wide(query_weight_D), wide(key_weight_D))
    query, key, value = (
        # A copy always: what an operator returns may not be a view of what it was given.
        product_SBF.new_empty(x.shape).copy_(x)
        for x in reference(wide(product_SBF), tables, weights, heads=heads, key_heads=key_heads, epsilon=epsilon)
    )
    return query, key, value


def _cpu_backward(
    of_query_SBHD: Tensor, of_key_SBGD: Tensor, of_value_SBGD: Tensor, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    of_query, of_key = (_turn_back(x, cos, sin) for x in (of_query_SBHD, of_key_SBGD))
    return _join(of_query, of_key, of_value_SBGD, dtype=of_query_SBHD.dtype)


def _cpu_normed_backward(
    of_query_SBHD: Tensor,
    of_key_SBGD: Tensor,
    of_value_SBGD: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    product_SBF: Tensor,
    query_weight_D: Tensor,
    key_weight_D: Tensor,
    epsilon: float,
) -> Triple:
    query_SBHD, key_SBGD, _ = _cut(wide(product_SBF), of_query_SBHD.size(2), of_key_SBGD.size(2))

    def through_norm(x: Tensor, weight_D: Tensor, gradient: Tensor) -> Pair:
        _, scale = rms_norm.cpu_forward(x, weight_D, epsilon)
        return rms_norm.cpu_backward(x, weight_D, scale, _turn_back(gradient, cos, sin), None)

    of_query, of_query_weight = through_norm(query_SBHD, query_weight_D, of_query_SBHD)
    of_key, of_key_weight = through_norm(key_SBGD, key_weight_D, of_key_SBGD)
    return _join(of_query, of_key, of_value_SBGD, dtype=product_SBF.dtype), of_query_weight, of_key_weight


def _fake_forward(
    product: Tensor, _cos: Any, _sin: Any, _query_weight: Any, _key_weight: Any, heads: int, key_heads: int, _: float
) -> Triple:
    *outer, features = product.shape
    query, key, value = (
        product.new_empty((*outer, count, features // (heads + 2 * key_heads)))
        for count in (heads, key_heads, key_heads)
    )
    return query, key, value


def _fake_backward(of_query: Tensor, of_key: Tensor, *_: Any) -> Tensor:
    *outer, heads, size = of_query.shape
    return of_query.new_empty((*outer, (heads + 2 * of_key.size(2)) * size))


_forward = operator(
    "heads(Tensor product, Tensor? cos, Tensor? sin, Tensor? query_weight, Tensor? key_weight, int heads, "
    "int key_heads, float epsilon) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_forward,
    cuda="heads.forward",
    fake=_fake_forward,
)
_backward = operator(
    "heads_backward(Tensor of_query, Tensor of_key, Tensor of_value, Tensor? cos, Tensor? sin) -> Tensor",
    cpu=_cpu_backward,
    cuda="heads.backward",
    fake=_fake_backward,
)
_normed_backward = operator(
    "heads_normed_backward(Tensor of_query, Tensor of_key, Tensor of_value, Tensor? cos, Tensor? sin, Tensor product, "
    "Tensor query_weight, Tensor key_weight, float epsilon) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_normed_backward,
    cuda="heads.normed_backward",
    fake=lambda *arguments: (_fake_backward(*arguments), *(torch.empty_like(weight) for weight in arguments[6:8])),
)
