"""OLMo 3: OLMo 2 with a window in three layers of four; a longer context changes the positions of the fourth alone."""

from typing import Any

from mai.model.families import olmo2
from mai.model.families.olmo2 import attention_of, rules
from mai.model.families.shared_parts import layer_types, layer_types_of, sizes_but_for_positions, windows
from mai.model.hf_config import HfConfig
from mai.model.hf_rotary import both_kinds_of, rotary_of_both_kinds
from mai.recipe import GroupedQueryAttention, ModelConfig, YarnPositions

__all__ = ["ALIASES", "DEFAULTS", "SIZES", "config_of", "model_of", "rules"]

SIZES = {
    # Of allenai/Olmo-3-1025-7B, config.json.
    "7b": ModelConfig(
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=11_008,
        num_heads=32,
        num_kv_heads=32,
        head_size=128,
        vocab_size=100_278,
        rotary_base=500_000.0,
        window_rotary_base=500_000.0,
        positions=YarnPositions(factor=8.0, original_length=8192, rotation_scale=1.2079441541679836),
        norm_epsilon=1e-6,
        window=4096,
        global_every=4,
        norms="after",
        attention=GroupedQueryAttention(qk_norm=True, norm_over="all_heads"),
    ),
}

DEFAULTS: dict[str, Any] = {
    # Of Olmo3Config in transformers.
    **olmo2.DEFAULTS,
    "rope_theta": 500_000.0,
    "sliding_window": 4096,
    "layer_types": None,
}
ALIASES: dict[str, str] = {}


def model_of(config: HfConfig) -> ModelConfig:
    config.must_be("hidden_act", ["silu", "swish"])
    found = sizes_but_for_positions(config)
    # transformers takes a rope_theta that stands beside for layers without a window alone (Olmo3Config,
    # convert_rope_params_to_dict).
    rotary = rotary_of_both_kinds(config, window_base=DEFAULTS["rope_theta"])
    has_window = layer_types(config, [(layer + 1) % 4 != 0 for layer in range(found["num_layers"])])
    shape = windows(config.optional("sliding_window"), has_window)
    if "window" not in shape:
        rotary = {**rotary, "window_rotary_base": None}
        if any(has_window):
            config.refuse("sliding_window", "layers that have a window need one")
    return ModelConfig(**found, **rotary, **shape, norms="after", attention=attention_of(config))


def config_of(model: ModelConfig, *, context: int) -> dict[str, Any]:
    return {
        **olmo2.config_of(model, context=context),
        "model_type": "olmo3",
        "architectures": ["Olmo3ForCausalLM"],
        "rope_parameters": both_kinds_of(model),
        "sliding_window": model.window,
        "layer_types": layer_types_of(model),
    }
