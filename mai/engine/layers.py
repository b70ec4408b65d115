"""Our layers inside Megatron-Core's: the spec of a decoder block whose norm, activation, rotary embedding and
attention core come from `mai/kernels`. A fused kernel enters at one class here.

Shapes follow Megatron: S sequence, B batch, H heads, G key and value heads, D head size.
"""

from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from mai.engine.context import AttentionCore, Positions, attend
from mai.engine.experts import expert_layer
from mai.engine.latent_attention import latent_self_attention
from mai.errors import RecipeError
from mai.kernels import attention, rms_norm, rope, swiglu
from mai.recipe import ModelConfig
from mai.recipe.named_function import call_function, load_function


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
    """Causal attention of this rank's heads, of its part of the sequence to all that came before."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        tables: tuple[Tensor, Tensor],
        rotates: bool = True,
        core: AttentionCore = attention.reference,
        **_: Any,
    ) -> None:
        """`rotates`: the queries and keys come without their positions, and `forward` turns them."""
        super().__init__(config=config)
        self.context_group = pg_collection.cp if pg_collection.cp.size() > 1 else None
        self.positions = Positions(tables, self.context_group)
        self.rotates, self.core = rotates, core
        self.cache: KeyValueCache | None = None

    def rotate(self, x_SBHD: Tensor) -> Tensor:
        """Turn queries or keys by their positions, which go on where the cache ends."""
        return self.positions.rotate(x_SBHD, start=0 if self.cache is None else self.cache.length)

    def forward(
        self, query_SBHD: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, attention_mask: None, /, **_: Any
    ) -> Tensor:
        if self.rotates:
            query_SBHD, key_SBGD = self.rotate(query_SBHD), self.rotate(key_SBGD)
        if self.cache is not None:
            key_SBGD, value_SBGD = self.cache.extend(key_SBGD, value_SBGD)
        if self.context_group is not None:
            return attend(query_SBHD, key_SBGD, value_SBGD, self.context_group, core=self.core).flatten(2)
        return self.core(query_SBHD, key_SBGD, value_SBGD).flatten(2)


def decoder_block(model: ModelConfig, *, layers: range, max_length: int, device: torch.device) -> Any:
    """The block spec that GPTModel takes, for the layers of one part of the model, counted from 0 over the whole.

    Raises RecipeError when the recipe names a layer or an attention core of its own that cannot be loaded."""
    latent = model.latent_attention
    rotary_size = model.head_size if latent is None else latent.rotary_head_size
    cos_SD, sin_SD = rope.tables(max_length, head_size=rotary_size, base=model.rotary_base)
    tables = (cos_SD.to(device), sin_SD.to(device))
    specs = [_layer(model, layer, tables) for layer in layers]
    if model.layer:
        specs = [_own_layer(model, layer, spec) for layer, spec in zip(layers, specs, strict=True)]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RMSNorm)


def _own_layer(model: ModelConfig, layer: int, standard: ModuleSpec) -> ModuleSpec:
    assert model.layer is not None
    own = call_function(model.layer, model, layer, standard, knob="model.layer")
    if not isinstance(own, ModuleSpec):
        raise RecipeError(f"model.layer={model.layer}: returned {type(own).__name__}, not the ModuleSpec of a layer")
    return own


def _layer(model: ModelConfig, layer: int, tables: tuple[Tensor, Tensor]) -> ModuleSpec:
    """A spec of its own for each layer: a recipe's own layer may exchange what is in it."""
    network = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=SwiGLU)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=_attention(model, tables),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=(
                expert_layer(model.experts, network)
                if model.experts is not None and model.has_experts(layer)
                else ModuleSpec(module=MLP, submodules=network)
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _attention(model: ModelConfig, tables: tuple[Tensor, Tensor]) -> ModuleSpec:
    own_core = (
        {"core": load_function(model.attention_core, knob="model.attention_core")} if model.attention_core else {}
    )
    core_attention = ModuleSpec(
        module=CoreAttention, params={"tables": tables, "rotates": model.latent_attention is None, **own_core}
    )
    if model.latent_attention is not None:
        return latent_self_attention(core_attention=core_attention, norm=RMSNorm)
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear, core_attention=core_attention, linear_proj=RowParallelLinear
        ),
    )
