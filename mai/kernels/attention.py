"""Causal attention core: torch's scaled dot-product attention, which picks its own backend.

Shapes: Q query positions, K key positions, B sequences, H query heads, G key and value heads, D head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(query_QBHD: Tensor, key_KBGD: Tensor, value_KBGD: Tensor) -> Tensor:
    """The queries are the last Q of the K positions; each sees itself and what came before. Returns [Q, B, H, D]."""
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_QBHD, key_KBGD, value_KBGD))
    num_queries, num_keys = query.size(2), key.size(2)
    mask_QK = None
    if 1 < num_queries < num_keys:
        positions = torch.arange(num_keys, device=query.device)
        mask_QK = positions[num_keys - num_queries :, None] >= positions[None, :]
    out_BHQD = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask_QK,
        is_causal=num_queries == num_keys,
        enable_gqa=query.size(1) != key.size(1),
    )
    return out_BHQD.permute(2, 0, 1, 3)
