"""SmolLM3: Llama whose every fourth layer knows no positions (NoPE, arXiv 2305.19466)."""

from collections.abc import Sequence
from typing import Any

from mai.model.families import llama
from mai.model.families.llama import rules
from mai.model.families.shared_parts import base_config, layer_types_of, windows_in_use
from mai.model.hf_config import HfConfig
from mai.recipe import ModelConfig

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of HuggingFaceTB/SmolLM3-3B-Base, config.json.
    "3b": ModelConfig(
        num_layers=36,
        hidden_size=2048,
        ffn_hidden_size=11_008,
        num_heads=16,
        num_kv_heads=4,
        head_size=128,
        vocab_size=128_256,
        rotary_base=5e6,
        norm_epsilon=1e-6,
        tied_embeddings=True,
        still_layers=tuple(range(3, 36, 4)),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of SmolLM3Config in transformers.
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rope_parameters": None,
    "rope_theta": 2e6,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
    "layer_types": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    found, turns = llama.fields(config), _turns(config)
    window = config.optional("sliding_window") if config.number("use_sliding_window", bool) else None
    config.pass_over("sliding_window")
    return ModelConfig(
        **found,
        **windows_in_use(config, window, [window is not None and not one for one in turns]),
        still_layers=tuple(layer for layer, one in enumerate(turns) if not one),
    )


def _turns(config: HfConfig) -> Sequence[bool]:
    """Which layers turn by position: `no_rope_layers` has 1 for those, against its name."""
    num_layers, every = config.number("num_hidden_layers", int), config.number("no_rope_layer_interval", int)
    said = config.value("no_rope_layers")
    if said is None:
        return [(layer + 1) % max(every, 1) != 0 for layer in range(num_layers)]
    if isinstance(said, list) and len(said) == num_layers and all(one in (0, 1) for one in said):
        return [bool(one) for one in said]
    config.refuse("no_rope_layers", f"0 or 1 is needed for each of {num_layers} layers")
    return [True] * num_layers


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **base_config(model, context=context),
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": model.has_query_biases,
        "mlp_bias": model.biases,
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "layer_types": layer_types_of(model),
        "no_rope_layers": [int(model.turns(layer)) for layer in range(model.num_layers)],
    }
