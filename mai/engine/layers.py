"""Our layers inside Megatron-Core's: the spec of a decoder block whose norm, activation, heads and attention core come
from `mai/kernels`; which implementation, says `operations.py`.

Shapes follow Megatron: S sequence, B batch, H heads, G key and value heads, D head size.
"""

from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
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
        operations, weight = self.config.operations, _factor(self.weight, self.config)
        if residual is None:
            return operations.rms_norm(x, weight, epsilon=self.epsilon)
        return operations.rms_norm_of_sum(x, residual, weight, epsilon=self.epsilon)


class HeadNorm(MegatronModule):
    """The weight of the queries' norm, or of the keys', which the operation of all heads applies.

    Called for it, not read: where a module is called, Megatron first waits for its weights, which it gathers meanwhile
    (distributed/distributed_data_parallel.py, overlap_param_gather)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, **_: Any) -> None:
        super().__init__(config=config)
        self.weight = _norm_weight(config, hidden_size)

    def forward(self) -> Tensor:
        return _factor(self.weight, self.config)


def _factor(weight: Tensor, config: TransformerConfig) -> Tensor:
    """What a norm multiplies with."""
    return weight + 1 if config.layernorm_zero_centered_gamma else weight


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


class GeGLU(MegatronModule):
    """gelu(gate) * up, in the tanh form (Gemma; arXiv 2002.05202)."""

    def forward(self, gate_and_up: Tensor) -> Tensor:
        return swiglu.gelu_reference(gate_and_up)

    def weighted(self, gate_and_up: Tensor, weight_T: Tensor) -> Tensor:
        """As `SwiGLU.weighted`."""
        weighted: Tensor = self(gate_and_up) * weight_T[:, None]
        return weighted.to(gate_and_up.dtype)


class ClampedSwiGLU(MegatronModule):
    """The same, of gpt-oss."""

    def forward(self, gate_and_up: Tensor) -> Tensor:
        return swiglu.clamped_reference(gate_and_up)

    def weighted(self, gate_and_up: Tensor, weight_T: Tensor) -> Tensor:
        """As `SwiGLU.weighted`."""
        weighted: Tensor = self(gate_and_up) * weight_T[:, None]
        return weighted.to(gate_and_up.dtype)


class Layer(TransformerLayer):
    """Megatron's, whose addition of the attention's output and norm after it are one operation; where the model says
    so, what attention and network give is normed and scaled before it is added."""

    def __init__(
        self,
        config: TransformerConfig,
        *arguments: Any,
        norms_outputs: bool = False,
        output_scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(config, *arguments, **options)
        self._normed: Tensor | None = None
        self._output_scale = output_scale
        if norms_outputs:
            # Names of later versions of Megatron-Core, which has no such norms in 0.16.1.
            self.post_self_attn_layernorm = RMSNorm(config, config.hidden_size, eps=config.layernorm_epsilon)
            self.post_mlp_layernorm = RMSNorm(config, config.hidden_size, eps=config.layernorm_epsilon)
        changes_outputs = norms_outputs or output_scale != 1
        is_ours = self.self_attn_bda is get_bias_dropout_add and type(self.pre_mlp_layernorm) is RMSNorm
        # Recomputing the norms means that their outputs are not kept.
        if is_ours and not self.recompute_pre_mlp_layernorm:
            self.self_attn_bda: Any = lambda *_: self._add_attention_and_norm
        elif changes_outputs:
            self.self_attn_bda = lambda *_: self._add_attention
        if changes_outputs:
            self.mlp_bda: Any = lambda *_: self._add_network

    def _add_attention_and_norm(self, out_and_bias: Any, residual: Tensor, _: float) -> Tensor:
        total: Tensor
        out = self._output(out_and_bias, "post_self_attn_layernorm")
        self._normed, total = self.pre_mlp_layernorm(out, residual)
        return total

    def _add_attention(self, out_and_bias: Any, residual: Tensor, _: float) -> Tensor:
        return residual + self._output(out_and_bias, "post_self_attn_layernorm")

    def _add_network(self, out_and_bias: Any, residual: Tensor, _: float) -> Tensor:
        return residual + self._output(out_and_bias, "post_mlp_layernorm")

    def _output(self, out_and_bias: tuple[Tensor, Tensor | None], norm: str) -> Tensor:
        """What is added to the residual stream."""
        out, bias = out_and_bias
        if bias is not None:
            out = out + bias
        if (module := getattr(self, norm, None)) is not None:
            out = module(out)
        return out if self._output_scale == 1 else out * self._output_scale

    def _forward_pre_mlp_layernorm(self, hidden: Tensor) -> Tensor:
        if self._normed is None:
            return super()._forward_pre_mlp_layernorm(hidden)  # type: ignore[no-any-return]
        normed, self._normed = self._normed, None
        return normed


_ACTIVATIONS = {"swiglu": SwiGLU, "clamped_swiglu": ClampedSwiGLU, "geglu": GeGLU}


def decoder_block(model: ModelConfig, *, layers: range, max_length: int, device: torch.device) -> Any:
    """The block spec that GPTModel takes, for the layers of one virtual stage, counted from 0 over the whole.

    Raises RecipeError when the recipe names a layer or an attention core of its own that cannot be loaded."""
    tables: dict[bool, tuple[Tensor, Tensor]] = {
        has_window: _tables(model, max_length, has_window=has_window, device=device)
        for has_window in sorted({model.window_of(layer) is not None for layer in layers})
    }
    if model.window_rotary_base is None:
        # One for all, so that what a batch makes of it is made once.
        tables = {has_window: next(iter(tables.values())) for has_window in tables}
    specs = [
        _layer(model, layer, tables[model.window_of(layer) is not None] if model.turns(layer) else None)
        for layer in layers
    ]
    if model.layer:
        specs = [_own_layer(model, layer, spec) for layer, spec in zip(layers, specs, strict=True)]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RMSNorm)


def _tables(model: ModelConfig, length: int, *, has_window: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin by position, of layers with a window or of those without."""
    frequencies = rotary.frequencies(model, length=length, has_window=has_window)
    cos_SD, sin_SD = rope.tables(length, frequencies, scale=rotary.rotation_scale(model, has_window=has_window))
    return cos_SD.to(device), sin_SD.to(device)


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
    norm = RMSNorm if model.has_input_norms else IdentityOp
    changes_outputs = model.has_output_norms or model.residual_scale != 1
    return ModuleSpec(
        module=Layer,
        # None where nothing is changed: a layer of a recipe's own may be Megatron's, which knows none.
        params={"norms_outputs": model.has_output_norms, "output_scale": model.residual_scale}
        if changes_outputs
        else {},
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=_attention(model, layer, tables),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
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
        epsilon = kind.norm_epsilon or model.norm_epsilon
        return latent_self_attention(core_attention=core_attention, norm=RMSNorm, epsilon=epsilon)
    return grouped_query_self_attention(
        core_attention=core_attention,
        norm=HeadNorm if kind.qk_norm else None,
        norms_all_heads=model.norms_all_heads,
        has_output_biases=model.has_output_biases,
    )


def _core(model: ModelConfig, layer: int) -> AttentionCore:
    if model.attention_core:
        return load_function(model.attention_core, knob="model.attention_core")
    return partial(attention.reference, window=model.window_of(layer), scale=rotary.softmax_scale(model))
