"""Attention whose keys and values come from one short latent vector (MLA): Megatron's module with our own projections.

    hidden -> query_rank, norm -> heads of queries: a still part and a rotary part
    hidden -> key_value_rank, norm -> heads of still keys and values;    hidden -> one rotary key for all heads

Megatron's own layer spec for environments without Transformer Engine (transformer/multi_latent_attention.py,
core 0.16.1) cuts the down projections over the tensor ranks and gathers their outputs, and forgets on the way back to
sum the rotary key's gradient over the tensor ranks' heads: 54 to 87% of it is missing. Here every tensor rank holds
the down projections whole, as in DeepSeek-V3, and the sum is made.

Shapes: S positions, B sequences, L positions of this rank, H heads of this rank, R rank of a latent vector.
"""

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer import ModuleSpec, multi_latent_attention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules, MultiLatentAttention
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch import Tensor

from mai.engine.matrices import ColumnMatrix, RowMatrix
from mai.engine.whole_linear import WholeLinear
from mai.recipe import LatentAttention, ModelConfig

# Without Transformer Engine its classes are stand-ins that `isinstance` refuses, and Megatron-Core still says that it
# is there (core 0.16.1; gone in 0.19).
if not isinstance(multi_latent_attention.TELinear, type):
    multi_latent_attention.HAVE_TE = False


class LatentSelfAttention(MultiLatentAttention):
    """Queries, keys and values through latent vectors; what comes after them is Megatron's."""

    def __init__(
        self,
        config: MLATransformerConfig,
        submodules: MLASelfAttentionSubmodules,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        pg_collection: ProcessGroupCollection,
        cp_comm_type: str | None = None,
        *,
        epsilon: float,
    ) -> None:
        super().__init__(
            config=config,
            submodules=submodules,
            layer_number=layer_number,
            attn_mask_type=attn_mask_type,
            attention_type="self",
            cp_comm_type=cp_comm_type,
            pg_collection=pg_collection,
        )
        heads, norm = config.num_attention_heads, submodules.kv_layernorm
        if config.q_lora_rank is None:
            self.linear_q_proj = self._to_heads(config.hidden_size, heads * self.q_head_dim)
        else:
            self.linear_q_down_proj = WholeLinear(config.hidden_size, config.q_lora_rank, config=config)
            self.q_layernorm = norm(config, config.q_lora_rank, eps=epsilon)
            self.linear_q_up_proj = self._to_heads(config.q_lora_rank, heads * self.q_head_dim)
        latent_and_rotary = config.kv_lora_rank + config.qk_pos_emb_head_dim
        self.linear_kv_down_proj = WholeLinear(config.hidden_size, latent_and_rotary, config=config)
        self.kv_layernorm = norm(config, config.kv_lora_rank, eps=epsilon)
        keys_and_values = heads * (config.qk_head_dim + config.v_head_dim)
        self.linear_kv_up_proj = self._to_heads(config.kv_lora_rank, keys_and_values)

    def _to_heads(self, input_size: int, output_size: int) -> ColumnMatrix:
        return ColumnMatrix(
            input_size,
            output_size,
            config=self.config,
            init_method=self.config.init_method,
            bias=False,
            gather_output=False,
            tp_group=self.tp_group,
        )

    def get_query_key_value_tensors(
        self, hidden_LBH: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Queries and keys with their positions, and values: [S, B, H, size of each]. Megatron's method, which also
        returns two things that only its experiments read."""
        config = self.config
        query_SBHD = self._queries(hidden_LBH)
        latent_LBR, rotary_LBD = self.linear_kv_down_proj(hidden_LBH).split(
            [config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1
        )
        still_SBHD, value_SBHD = self._by_head(self.linear_kv_up_proj, self.kv_layernorm(latent_LBR)).split(
            [config.qk_head_dim, config.v_head_dim], dim=-1
        )
        rotary_SBHD = self._for_all_heads(rotary_LBD)
        key_SBHD = torch.cat([still_SBHD, rotary_SBHD.expand(-1, -1, still_SBHD.size(2), -1)], dim=-1)
        return query_SBHD, key_SBHD, value_SBHD, None, None

    def _queries(self, hidden_LBH: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            query_SBHD = self._by_head(self.linear_q_proj, hidden_LBH)
        else:
            query_SBHD = self._by_head(self.linear_q_up_proj, self.q_layernorm(self.linear_q_down_proj(hidden_LBH)))
        still_SBHD, rotary_SBHD = query_SBHD.split([self.config.qk_head_dim, self.config.qk_pos_emb_head_dim], dim=-1)
        return torch.cat([still_SBHD, self.core_attention.rotate(rotary_SBHD)], dim=-1)

    def _by_head(self, projection: ColumnMatrix, x_LBR: Tensor) -> Tensor:
        out: Tensor
        out, _ = projection(x_LBR)
        return torch.unflatten(out, -1, (self.num_attention_heads_per_partition, -1))

    def _for_all_heads(self, rotary_LBD: Tensor) -> Tensor:
        """The rotary key of the whole sequence, [S, B, 1, D]; on the way back, summed over all ranks' heads."""
        if self.config.sequence_parallel:
            rotary_SBD = gather_from_sequence_parallel_region(rotary_LBD, group=self.tp_group)
        else:
            rotary_SBD = copy_to_tensor_model_parallel_region(rotary_LBD, group=self.tp_group)
        rotary_SB1D: Tensor = self.core_attention.rotate(rotary_SBD.unsqueeze(2))
        return rotary_SB1D


def latent_self_attention(*, core_attention: ModuleSpec, norm: type, epsilon: float) -> ModuleSpec:
    """The attention spec; `core_attention` takes queries and keys that were turned by its `rotate`."""
    return ModuleSpec(
        module=LatentSelfAttention,
        params={"attn_mask_type": AttnMaskType.causal, "epsilon": epsilon},
        submodules=MLASelfAttentionSubmodules(core_attention=core_attention, linear_proj=RowMatrix, kv_layernorm=norm),
    )


def latent_fields(model: ModelConfig, latent: LatentAttention) -> dict[str, Any]:
    """The part of MLATransformerConfig that speaks of latent attention."""
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_head_dim": model.head_size,
        "qk_pos_emb_head_dim": latent.rotary_head_size,
        "v_head_dim": latent.value_head_size,
        "rope_type": "rope",
        "rotary_base": model.rotary_base,
    }
