"""Three parts of one's own, and a recipe that trains with them; docs/guides/your_own_part.md explains them."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mai.recipe import ModelConfig, ObjectiveConfig, Recipe
from recipes.debug.tiny import tiny

WINDOW = 16


def window_attention(
    query_QBHD: Tensor, key_KBGD: Tensor, value_KBGD: Tensor, *, starts_BQ: Tensor | None = None
) -> Tensor:
    """Causal attention to the last 16 positions, from where the query's segment begins; the queries are the last Q of
    the K. Returns [Q, B, H, D]."""
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_QBHD, key_KBGD, value_KBGD))
    num_queries, num_keys = query.size(2), key.size(2)
    distance_QK = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)[None, :]
    mask = ((distance_QK >= 0) & (distance_QK < WINDOW)).to(query.device)
    if starts_BQ is not None:
        mask = mask & (torch.arange(num_keys, device=query.device) >= starts_BQ[:, None, :, None])
    out_BHQD = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    return out_BHQD.permute(2, 0, 1, 3)


def post_normed_layer(model: ModelConfig, layer: int, standard: Any) -> Any:
    """mai's layer, with one more norm on what its feed-forward network adds (as in Gemma 2)."""
    feed_forward = standard.submodules.mlp
    feed_forward.module = _with_norm(feed_forward.module)
    return standard


def focal_loss(token_losses_BS: Tensor, batch: Any) -> Tensor:
    """Sum of the tokens' cross entropies, the easy ones made light (focal loss, arXiv 1708.02002, gamma 1)."""
    token_losses_BS = token_losses_BS.float()
    return ((1 - torch.exp(-token_losses_BS)) * token_losses_BS).sum()


def own_parts() -> Recipe:
    """`tiny` with a window, one more norm and another loss."""
    recipe, here = tiny(), __file__
    model = replace(recipe.model, attention_core=f"{here}:window_attention", layer=f"{here}:post_normed_layer")
    return replace(recipe, name="own-parts", model=model, objective=ObjectiveConfig(loss=f"{here}:focal_loss"))


def _with_norm(network: type) -> type:
    # Here and not above: a recipe file is read before the device is chosen, and Megatron-Core is imported for one.
    from mai.engine.layers import RMSNorm

    class WithNorm(network):
        def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(config, *arguments, **options)
            # Under sequence parallelism each tensor rank norms a part of the sequence: RMSNorm marks its weight, so
            # that the gradient is summed over them. Without the mark training goes on, wrongly: `mai certify` finds it.
            self.post_norm = RMSNorm(config, config.hidden_size)

        def forward(self, hidden: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, None]:
            out, _ = super().forward(hidden, *arguments, **options)
            return self.post_norm(out), None

    return WithNorm
