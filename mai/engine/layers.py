"""Our layers inside Megatron-Core's: the spec of a decoder block whose norm, activation, heads and attention core come
from `mai/kernels`; which implementation, says `operations.py`.

Shapes follow Megatron: S sequence, B batch, H heads, G key and value heads, D head size.
"""

from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from mai.engine.context_attention import AttentionCore
from mai.engine.core_attention import CoreAttention
from mai.engine.experts import expert_layer
from mai.engine.grouped_query_attention import grouped_query_self_attention
from mai.engine.latent_attention import latent_self_attention
from mai.engine.matrices import ColumnMatrix, RowMatrix
from mai.errors import RecipeError
from mai.kernels import attention, rope, swiglu
from mai.model import rotary
from mai.recipe import GroupedQueryAttention, ModelConfig
from mai.recipe.named_function import call_function, load_function


class RMSNorm(MegatronModule):
    """Megatron's own (transformer/torch_norm.py) refuses sequence parallelism; this one marks its weight for it."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(config=config)
        self.epsilon = eps
        self.weight = _norm_weight(config, hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        """The norm; with a residual that of the sum, and the sum."""
        operations = self.config.operations
        if residual is None:
            return operations.rms_norm(x, self.weight, epsilon=self.epsilon)
        return operations.rms_norm_of_sum(x, residual, self.weight, epsilon=self.epsilon)


class HeadNorm(MegatronModule):
    """The weight of the queries' norm, or of the keys', which the operation of all heads applies.

    Called for it, not read: where a module is called, Megatron first waits for its weights, which it gathers meanwhile
    (distributed/distributed_data_parallel.py, overlap_param_gather)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, **_: Any) -> None:
        super().__init__(config=config)
        self.weight = _norm_weight(config, hidden_size)

    def forward(self) -> Tensor:
        return self.weight


def _norm_weight(config: TransformerConfig, size: int) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.empty(size, dtype=config.params_dtype, device=torch.get_default_device()))
    # Each tensor rank sees a part of the sequence only: Megatron sums this weight's gradient over them.
    weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return weight


class SwiGLU(MegatronModule):
    """The activation between the two matrices of a gated feed-forward layer."""

    def forward(self, gate_and_up: Tensor) -> Tensor:
        out: Tensor = self.config.operations.swiglu(gate_and_up)
        return out

    def weighted(self, gate_and_up: Tensor, weight_T: Tensor) -> Tensor:
        """The activation of routed tokens, times what their router gave each."""
        out: Tensor = self.config.operations.weighted_swiglu(gate_and_up, weight_T)
        return out


class ClampedSwiGLU(MegatronModule):
    """The same, of gpt-oss."""

    def forward(self, gate_and_up: Tensor) -> Tensor:
        return swiglu.clamped_reference(gate_and_up)

    def weighted(self, gate_and_up: Tensor, weight_T: Tensor) -> Tensor:
        """As `SwiGLU.weighted`."""
        weighted: Tensor = self(gate_and_up) * weight_T[:, None]
        return weighted.to(gate_and_up.dtype)


class Layer(TransformerLayer):
    """Megatron's, whose addition of the attention's output and norm after it are one operation."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._normed: Tensor | None = None
        is_ours = self.self_attn_bda is get_bias_dropout_add and type(self.pre_mlp_layernorm) is RMSNorm
        # Recomputing the norms means that their outputs are not kept.
        if is_ours and not self.recompute_pre_mlp_layernorm:
            self.self_attn_bda: Any = self._bias_dropout_add

    def _bias_dropout_add(self, *_: Any) -> Any:
        return self._add_and_norm

    def _add_and_norm(self, out_and_bias: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
        assert dropout == 0
        out, bias = out_and_bias
        total: Tensor
        self._normed, total = self.pre_mlp_layernorm(out if bias is None else out + bias, residual)
        return total

    def _forward_pre_mlp_layernorm(self, hidden: Tensor) -> Tensor:
        if self._normed is None:
            return super()._forward_pre_mlp_layernorm(hidden)  # type: ignore[no-any-return]
        normed, self._normed = self._normed, None
        return normed


_ACTIVATIONS = {"swiglu": SwiGLU, "clamped_swiglu": ClampedSwiGLU}


def decoder_block(model: ModelConfig, *, layers: range, max_length: int, device: torch.device) -> Any:
    """The block spec that GPTModel takes, for the layers of one virtual stage, counted from 0 over the whole.

    Raises RecipeError when the recipe names a layer or an attention core of its own that cannot be loaded."""
    cos_SD, sin_SD = rope.tables(max_length, rotary.frequencies(model), scale=rotary.rotation_scale(model))
    tables = (cos_SD.to(device), sin_SD.to(device))
    specs = [_layer(model, layer, tables if model.turns(layer) else None) for layer in layers]
    if model.layer:
        specs = [_own_layer(model, layer, spec) for layer, spec in zip(layers, specs, strict=True)]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RMSNorm)


def further_layers(model: ModelConfig, *, max_length: int, device: torch.device) -> list[ModuleSpec]:
    """The layers of `model.multi_token_depths`, each like the model's last."""
    last = range(model.num_layers - 1, model.num_layers)
    return [
        decoder_block(model, layers=last, max_length=max_length, device=device).layer_specs[0]
        for _ in range(model.multi_token_depths)
    ]


def _own_layer(model: ModelConfig, layer: int, standard: ModuleSpec) -> ModuleSpec:
    assert model.layer is not None
    own = call_function(model.layer, model, layer, standard, knob="model.layer")
    if not isinstance(own, ModuleSpec):
        raise RecipeError(f"model.layer={model.layer}: returned {type(own).__name__}, not the ModuleSpec of a layer")
    return own


def _layer(model: ModelConfig, layer: int, tables: tuple[Tensor, Tensor] | None) -> ModuleSpec:
    """A spec of its own for each layer: a recipe's own layer may exchange what is in it."""
    network = MLPSubmodules(
        linear_fc1=ColumnMatrix,
        linear_fc2=RowMatrix,
        activation_func=_ACTIVATIONS[model.activation],
    )
    return ModuleSpec(
        module=Layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=_attention(model, layer, tables),
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


def _attention(model: ModelConfig, layer: int, tables: tuple[Tensor, Tensor] | None) -> ModuleSpec:
    kind = model.attention
    core_attention = ModuleSpec(
        module=CoreAttention,
        params={
            "tables": tables,
            "has_sinks": isinstance(kind, GroupedQueryAttention) and kind.sinks,
            "core": _core(model, layer),
        },
    )
    if not isinstance(kind, GroupedQueryAttention):
        return latent_self_attention(core_attention=core_attention, norm=RMSNorm)
    return grouped_query_self_attention(core_attention=core_attention, norm=HeadNorm if kind.qk_norm else None)


def _core(model: ModelConfig, layer: int) -> AttentionCore:
    if model.attention_core:
        return load_function(model.attention_core, knob="model.attention_core")
    return partial(attention.reference, window=model.window_of(layer), scale=rotary.softmax_scale(model))
