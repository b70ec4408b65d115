"""Attention whose groups of query heads share a key and a value (GQA): Megatron's module, with one operation of ours
between the product and the attention core (mai/kernels/heads.py).

Megatron cuts the product into views, copies the queries, norms and turns queries and keys one by one, and joins three
gradients on the way back (transformer/attention.py, SelfAttention.get_query_key_value_tensors, core 0.16.1).

Shapes: S positions, L positions of this rank, B sequences, H features of the hidden state, F of the product.
"""

from typing import Any

from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from mai.engine.all_heads_norm import AllHeadsNorm
from mai.engine.matrices import BiasedRowMatrix, ColumnMatrix, RowMatrix


class GroupedQuerySelfAttention(SelfAttention):
    """Queries, keys and values from one product, normed and turned; what comes after them is Megatron's."""

    def get_query_key_value_tensors(self, hidden_LBH: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        """[S, B, heads, size of each]. Megatron's method; its options are for an output gate and for a fusion of its
        own, which our configuration never asks for.

        Every tensor rank has whole groups of heads: a rule of the recipe refuses more ranks than key heads."""
        product_SBF, _ = self.linear_qkv(hidden_LBH)
        return self._heads(
            product_SBF,
            self.core_attention.take_tables(product_SBF.size(0)),
            (self.q_layernorm(), self.k_layernorm()) if self.config.qk_layernorm else None,
        )

    def _heads(
        self, product_SBF: Tensor, tables: tuple[Tensor, Tensor] | None, weights: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads: tuple[Tensor, Tensor, Tensor] = self.config.operations.heads(
            product_SBF,
            tables,
            weights,
            heads=self.num_attention_heads_per_partition,
            key_heads=self.num_query_groups_per_partition,
            epsilon=self.config.layernorm_epsilon,
        )
        return heads


class AllHeadsNormedSelfAttention(GroupedQuerySelfAttention):
    """The same, whose norms are over all heads at once, and stand before the turning (OLMo 2)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        heads, key_heads = self.num_attention_heads_per_partition, self.num_query_groups_per_partition
        self.q_layernorm, self.k_layernorm = (
            AllHeadsNorm(
                self.config,
                count * self.hidden_size_per_attention_head,
                epsilon=self.config.layernorm_epsilon,
                group=self.pg_collection.tp,
            )
            for count in (heads, key_heads)
        )

    def get_query_key_value_tensors(self, hidden_LBH: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        """As there."""
        product_SBF, _ = self.linear_qkv(hidden_LBH)
        query, key, value = self._heads(product_SBF, None, None)
        turn = self.core_attention.rotate
        return turn(self.q_layernorm(query)), turn(self.k_layernorm(key)), value


def grouped_query_self_attention(
    *, core_attention: ModuleSpec, norm: type | None, norms_all_heads: bool, has_output_biases: bool
) -> ModuleSpec:
    """The attention spec; `norm`, called with nothing, gives the weight of the queries' norm, or of the keys'; with
    `norms_all_heads` these are norms over all heads instead."""
    return ModuleSpec(
        module=AllHeadsNormedSelfAttention if norms_all_heads else GroupedQuerySelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnMatrix,
            core_attention=core_attention,
            linear_proj=BiasedRowMatrix if has_output_biases else RowMatrix,
            q_layernorm=norm,
            k_layernorm=norm,
        ),
    )
