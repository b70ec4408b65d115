"""What random configurations of most families have in common: sizes, rotary positions, windows."""

import random
from typing import Any

VOCAB_SIZE = 300
LEFT_OUT = object()
"""For a key that is not there."""


def common(dice: random.Random) -> dict[str, Any]:
    heads = dice.choice([2, 4, 8])
    return {
        "vocab_size": VOCAB_SIZE,
        "eos_token_id": 0,
        "hidden_size": heads * dice.choice([8, 16]),
        "intermediate_size": dice.choice([64, 96, 130]),
        "num_hidden_layers": dice.choice([2, 2, 4]),
        "num_attention_heads": heads,
        "num_key_value_heads": dice.choice([heads, max(1, heads // 2), 2, 1]),
        "max_position_embeddings": dice.choice([32, 64, 128]),
        "hidden_act": dice.choice([LEFT_OUT, "silu", "swish"]),
        "rms_norm_eps": dice.choice([LEFT_OUT, 1e-6, 1e-5, 1e-3]),
        "tie_word_embeddings": dice.choice([LEFT_OUT, False, True]),
        "initializer_range": dice.choice([LEFT_OUT, 0.02, 0.05]),
        **rotary(dice),
    }


def head_size(dice: random.Random) -> dict[str, Any]:
    return {"head_dim": dice.choice([LEFT_OUT, 8, 16, 32])}


def rotary(dice: random.Random) -> dict[str, Any]:
    """In today's words, in those of older files, or in a mixture of both."""
    base = dice.choice([10_000.0, 500_000.0, 1e6])
    kind = dice.choice([{}, {}, *SCALINGS])
    if dice.random() < 0.4:
        kind = {("type" if key == "rope_type" and dice.random() < 0.5 else key): value for key, value in kind.items()}
        return {
            "rope_theta": dice.choice([LEFT_OUT, base]),
            "rope_scaling": dice.choice([kind or None, kind or None, LEFT_OUT]),
            "original_max_position_embeddings": dice.choice([LEFT_OUT, LEFT_OUT, LEFT_OUT, 16, 64]),
        }
    inside = dice.random() < 0.7
    return {
        "rope_parameters": {
            **(kind or {"rope_type": "default"}),
            **({"rope_theta": base} if inside else {}),
        },
        "rope_theta": LEFT_OUT if inside else base,
        "rope_scaling": dice.choice([LEFT_OUT, LEFT_OUT, LEFT_OUT, dice.choice(SCALINGS)]),
    }


_LENGTH = {"original_max_position_embeddings": 16}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_LENGTH},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, **_LENGTH},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "truncate": False, **_LENGTH},
    {"rope_type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16, **_LENGTH},
    {"rope_type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_slow": 2, **_LENGTH},
]


def layer_types(dice: random.Random, layers: int = 4) -> dict[str, Any]:
    kinds = ["full_attention", "sliding_attention"]
    drawn = [dice.choice(kinds) for _ in range(layers)]
    return {"num_hidden_layers": layers, "layer_types": dice.choice([LEFT_OUT, None, drawn, drawn])}


def window(dice: random.Random) -> dict[str, Any]:
    return {"sliding_window": dice.choice([LEFT_OUT, None, 4, 16])}
