"""Causal attention core: torch's scaled dot-product attention, which picks its own backend.

Shapes: Q query positions, K key positions, B sequences, H query heads, G key and value heads, D head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    query_QBHD: Tensor,
    key_KBGD: Tensor,
    value_KBGD: Tensor,
    *,
    window: int | None = None,
    sinks_H: Tensor | None = None,
    scale: float | None = None,
    starts_BQ: Tensor | None = None,
) -> Tensor:
    """The queries are the last Q of the K positions; each sees itself and what came before. Returns [Q, B, H, D].

    Args:
        window: a query sees so many positions, its own included; None for all before it.
        sinks_H: a logit for each head that joins its softmax and adds nothing to the sum (gpt-oss).
        scale: of the logits; None for 1 / sqrt(D).
        starts_BQ: the first of the K positions that each query may see, where its segment begins (int); None for all
            before it."""
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_QBHD, key_KBGD, value_KBGD))
    num_queries, num_keys = query.size(2), key.size(2)
    # Where a query sees all keys before it, torch needs no mask: that leaves it the choice of its fastest kernel.
    is_plain = sinks_H is None and starts_BQ is None and (window is None or window >= num_keys)
    mask = None
    if not is_plain or 1 < num_queries < num_keys:
        mask = _may_see(num_queries, num_keys, window=window or num_keys, device=query.device)
    if starts_BQ is not None:
        assert mask is not None
        mask = mask & (torch.arange(num_keys, device=query.device) >= starts_BQ[:, None, :, None])
    if sinks_H is not None:
        assert mask is not None
        mask = _with_sinks(mask, sinks_H, dtype=query.dtype)
        # A key and a value of nothing, for the sinks' column of the mask.
        key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
    out_BHQD = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and num_queries == num_keys,
        scale=scale,
        enable_gqa=query.size(1) != key.size(1),
    )
    return out_BHQD.permute(2, 0, 1, 3)


def _may_see(num_queries: int, num_keys: int, *, window: int, device: torch.device) -> Tensor:
    """Which keys each query sees, [Q, K]."""
    positions = torch.arange(num_keys, device=device)
    distance_QK = positions[num_keys - num_queries :, None] - positions[None, :]
    return (distance_QK >= 0) & (distance_QK < window)


def _with_sinks(may_see: Tensor, sinks_H: Tensor, *, dtype: torch.dtype) -> Tensor:
    """What is added to the logits: the sinks stand in the last column. [Q, K] gives [H, Q, K + 1], and the mask of
    segments [B, 1, Q, K] gives [B, H, Q, K + 1]."""
    bias = torch.zeros(may_see.shape, dtype=dtype, device=may_see.device)
    bias.masked_fill_(~may_see, float("-inf"))
    *sequences, num_queries, num_keys = (*may_see.shape[:-3], *may_see.shape[-2:])
    of_each_head = (*sequences, sinks_H.numel(), num_queries)
    sinks_HQ1 = sinks_H.to(dtype)[:, None, None].expand(*of_each_head, 1)
    return torch.cat([bias.expand(*of_each_head, num_keys), sinks_HQ1], dim=-1)
