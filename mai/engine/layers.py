"""Our layers inside Megatron-Core's: the spec of a decoder block whose norm, activation, rotary embedding and
attention core come from `mai/kernels`. A fused kernel enters at one class here.

Shapes follow Megatron: S sequence, B batch, H heads, G key and value heads, D head size.
"""

from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from mai.kernels import attention, rms_norm, rope, swiglu
from mai.recipe import ModelConfig


class RMSNorm(torch.nn.Module):
    """Megatron's own (transformer/torch_norm.py) refuses sequence parallelism; this one marks its weight for it."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.epsilon = eps
        self.weight = torch.nn.Parameter(
            torch.empty(hidden_size, dtype=config.params_dtype, device=torch.get_default_device())
        )
        # Each tensor rank sees a part of the sequence only: Megatron sums this weight's gradient over them.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm.reference(x, self.weight, epsilon=self.epsilon)


class SwiGLU(MegatronModule):
    """The activation between the two matrices of a gated feed-forward layer."""

    def forward(self, gate_and_up: Tensor) -> Tensor:
        return swiglu.reference(gate_and_up)


class KeyValueCache:
    """Keys and values of the positions seen so far, for generation: [K, B, G, D] each."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.key is None else self.key.size(0)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append along the sequence; returns all keys and values."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key]), torch.cat([self.value, value])
        self.key, self.value = key, value
        return key, value


class CoreAttention(MegatronModule):
    """Rotary embedding and causal attention of this rank's heads."""

    def __init__(self, *, config: TransformerConfig, tables: tuple[Tensor, Tensor], **_: Any) -> None:
        super().__init__(config=config)
        self.cos_SD, self.sin_SD = tables
        self.cache: KeyValueCache | None = None

    def forward(
        self, query_SBHD: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, attention_mask: None, /, **_: Any
    ) -> Tensor:
        start = 0 if self.cache is None else self.cache.length
        positions = slice(start, start + query_SBHD.size(0))
        cos_SD, sin_SD = self.cos_SD[positions], self.sin_SD[positions]
        query_SBHD = rope.reference(query_SBHD, cos_SD, sin_SD)
        key_SBGD = rope.reference(key_SBGD, cos_SD, sin_SD)
        if self.cache is not None:
            key_SBGD, value_SBGD = self.cache.extend(key_SBGD, value_SBGD)
        return attention.reference(query_SBHD, key_SBGD, value_SBGD).flatten(2)


def decoder_block(model: ModelConfig, *, layers_of_stage: int, max_length: int, device: torch.device) -> Any:
    """The block spec that GPTModel takes, for the layers of one pipeline stage."""
    cos_SD, sin_SD = rope.tables(max_length, head_size=model.head_size, base=model.rotary_base)
    core_attention = partial(CoreAttention, tables=(cos_SD.to(device), sin_SD.to(device)))
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear, core_attention=core_attention, linear_proj=RowParallelLinear
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=SwiGLU
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * layers_of_stage, layer_norm=RMSNorm)
