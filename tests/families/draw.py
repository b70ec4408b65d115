"""Random configurations of the families: every field that a config.json may hold, said in every way that it may be.

Sizes are small; the rest is drawn from all that transformers takes, what mai refuses too. A key is left out as often as
the class has a default that a small model can live with.
"""

import random
from collections.abc import Callable
from typing import Any

from tests.families.draw_parts import LEFT_OUT, SCALINGS, common, head_size, layer_types, window

Draw = Callable[[random.Random], dict[str, Any]]


def draw(family: str, number: int) -> dict[str, Any]:
    """A config.json, always the same for the same number."""
    dice = random.Random(f"{family} {number}")
    config = {"model_type": family, **common(dice), **FAMILIES[family](dice)}
    if dice.random() < 0.3:
        config |= dice.choice(CHANGE_NOTHING)
    return {key: value for key, value in config.items() if value is not LEFT_OUT}


CHANGE_NOTHING: list[dict[str, Any]] = [
    {"use_cache": False, "output_router_logits": True},
    {"pretraining_tp": 2, "torch_dtype": "float32", "transformers_version": "4.40.0"},
    {"_name_or_path": "somebody/something", "id2label": {"0": "yes", "1": "no"}, "temperature": 0.3, "top_p": 0.9},
]


def llama(dice: random.Random) -> dict[str, Any]:
    return {
        **head_size(dice),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        "mlp_bias": dice.choice([LEFT_OUT, LEFT_OUT, False, True]),
    }


def mistral(dice: random.Random) -> dict[str, Any]:
    return {**head_size(dice), **window(dice), **(layer_types(dice) if dice.random() < 0.1 else {})}


def mixtral(dice: random.Random) -> dict[str, Any]:
    experts = dice.choice([4, 6, 8])
    return {
        **head_size(dice),
        **window(dice),
        dice.choice(["num_local_experts", "num_local_experts", "num_experts"]): experts,
        "num_experts_per_tok": dice.choice([LEFT_OUT, 1, 2, 3, 4]),
        "router_aux_loss_coef": dice.choice([LEFT_OUT, 0.02]),
        "router_jitter_noise": dice.choice([LEFT_OUT, LEFT_OUT, 0.0, 0.1]),
    }


def _upper_windows(dice: random.Random) -> dict[str, Any]:
    return {
        "use_sliding_window": dice.choice([LEFT_OUT, False, True]),
        "sliding_window": dice.choice([LEFT_OUT, 4, 16]),
        "max_window_layers": dice.choice([LEFT_OUT, 0, 1, 2, 4]),
    }


def qwen3(dice: random.Random) -> dict[str, Any]:
    return {
        "head_dim": dice.choice([8, 16, 32]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        **_upper_windows(dice),
        **(layer_types(dice) if dice.random() < 0.3 else {}),
    }


def _qwen_experts(dice: random.Random) -> dict[str, Any]:
    layers = dice.choice([2, 4])
    return {
        "num_hidden_layers": layers,
        "moe_intermediate_size": dice.choice([32, 48]),
        "num_experts": dice.choice([4, 6, 8]),
        "num_experts_per_tok": dice.choice([1, 2, 3, 4]),
        "norm_topk_prob": dice.choice([LEFT_OUT, False, True]),
        "decoder_sparse_step": dice.choice([LEFT_OUT, 1, 2]),
        "mlp_only_layers": dice.choice([LEFT_OUT, [], [0], [1], [0, layers - 1], list(range(layers))]),
    }


def qwen3_moe(dice: random.Random) -> dict[str, Any]:
    return {
        **_qwen_experts(dice),
        "head_dim": dice.choice([LEFT_OUT, 8, 16, 32]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        **_upper_windows(dice),
    }


def _latent(dice: random.Random) -> dict[str, Any]:
    return {
        "num_key_value_heads": LEFT_OUT,
        "num_hidden_layers": dice.choice([2, 4]),
        "q_lora_rank": dice.choice([None, 16, 24]),
        "kv_lora_rank": dice.choice([16, 32]),
        "qk_rope_head_dim": dice.choice([8, 16]),
        "qk_nope_head_dim": dice.choice([8, 16]),
        "v_head_dim": dice.choice([8, 16]),
        "moe_intermediate_size": dice.choice([32, 48]),
        "n_shared_experts": dice.choice([1, 2]),
        "first_k_dense_replace": dice.choice([0, 1, 1, 4]),
        "routed_scaling_factor": dice.choice([LEFT_OUT, 1.0, 2.5]),
        "norm_topk_prob": dice.choice([LEFT_OUT, False, True]),
        "attention_bias": dice.choice([LEFT_OUT, LEFT_OUT, False, True]),
    }


def _groups(dice: random.Random) -> dict[str, Any]:
    groups, of_each = dice.choice([1, 2, 4, 8]), dice.choice([2, 4])
    taken = dice.choice([one for one in (1, 2, 4) if one <= groups])
    return {
        "n_routed_experts": groups * of_each,
        "n_group": groups,
        "topk_group": taken,
        "num_experts_per_tok": dice.choice([one for one in (1, 2, 4, 6) if one <= taken * of_each]),
    }


def deepseek_v3(dice: random.Random) -> dict[str, Any]:
    heads = dice.choice([2, 4])
    return {
        "num_attention_heads": heads,
        **_latent(dice),
        "num_key_value_heads": dice.choice([heads, None]),
        **(_groups(dice) if dice.random() < 0.8 else {"n_routed_experts": 16}),
        "rope_interleave": dice.choice([LEFT_OUT, LEFT_OUT, True, False]),
    }


def gpt_oss(dice: random.Random) -> dict[str, Any]:
    return {
        "head_dim": dice.choice([8, 16, 32]),
        "sliding_window": dice.choice([4, 16]),
        "attention_bias": dice.choice([LEFT_OUT, LEFT_OUT, True, False]),
        **layer_types(dice, dice.choice([2, 4])),
        dice.choice(["num_local_experts", "num_experts"]): dice.choice([4, 6, 8]),
        "num_experts_per_tok": dice.choice([1, 2, 4]),
        **({"rope_parameters": LEFT_OUT, "rope_scaling": LEFT_OUT} if dice.random() < 0.3 else {}),
    }


def qwen2(dice: random.Random) -> dict[str, Any]:
    return {**_upper_windows(dice), **(layer_types(dice) if dice.random() < 0.3 else {})}


def ministral(dice: random.Random) -> dict[str, Any]:
    return {**head_size(dice), **window(dice), **layer_types(dice, dice.choice([2, 4]))}


def seed_oss(dice: random.Random) -> dict[str, Any]:
    return {
        "head_dim": dice.choice([None, 8, 16, 32]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        "attention_out_bias": dice.choice([LEFT_OUT, False, True]),
        "attention_dropout": dice.choice([LEFT_OUT, 0.0, 0.2]),
        "residual_dropout": dice.choice([LEFT_OUT, 0.0, 0.2]),
        "mlp_bias": dice.choice([LEFT_OUT, LEFT_OUT, False, True]),
    }


def smollm3(dice: random.Random) -> dict[str, Any]:
    layers = dice.choice([2, 4, 4])
    return {
        "num_hidden_layers": layers,
        "pad_token_id": None,
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        "mlp_bias": dice.choice([LEFT_OUT, LEFT_OUT, False, True]),
        "use_sliding_window": dice.choice([LEFT_OUT, False, True]),
        **window(dice),
        "no_rope_layer_interval": dice.choice([LEFT_OUT, 2, 3, 4]),
        "no_rope_layers": dice.choice([LEFT_OUT, LEFT_OUT, [dice.choice([0, 1]) for _ in range(layers)]]),
        **(layer_types(dice, layers) if dice.random() < 0.3 else {}),
    }


def deepseek_v2(dice: random.Random) -> dict[str, Any]:
    heads = dice.choice([2, 4])
    grouped = dice.random() < 0.6
    groups = _groups(dice) if grouped else {"n_routed_experts": 8, "num_experts_per_tok": dice.choice([1, 2, 3])}
    return {
        "num_attention_heads": heads,
        **_latent(dice),
        "num_key_value_heads": dice.choice([heads, None, LEFT_OUT]),
        **groups,
        "topk_method": "group_limited_greedy" if grouped else dice.choice([LEFT_OUT, "greedy"]),
        "aux_loss_alpha": dice.choice([LEFT_OUT, 1e-2]),
        "seq_aux": dice.choice([LEFT_OUT, True, False]),
        "norm_topk_prob": dice.choice([LEFT_OUT, False, False, True]),
        "mlp_bias": dice.choice([LEFT_OUT, LEFT_OUT, False, True]),
    }


def qwen2_moe(dice: random.Random) -> dict[str, Any]:
    drawn = _qwen_experts(dice)
    return {
        **drawn,
        "shared_expert_intermediate_size": dice.choice([32, 64]),
        "qkv_bias": dice.choice([LEFT_OUT, False, True]),
        **_upper_windows(dice),
        **(layer_types(dice, drawn["num_hidden_layers"]) if dice.random() < 0.2 else {}),
    }


def phi3(dice: random.Random) -> dict[str, Any]:
    heads, size = dice.choice([(4, 16), (2, 32), (8, 16)])
    share = dice.choice([LEFT_OUT, 1.0, 0.75, 0.5])
    pairs = int(size * (1.0 if share is LEFT_OUT else share)) // 2
    scaling = {
        dice.choice(["rope_type", "type"]): dice.choice(["longrope", "longrope", "su"]),
        "short_factor": [round(dice.uniform(1, 2), 3) for _ in range(pairs)],
        "long_factor": [round(dice.uniform(2, 8), 3) for _ in range(pairs)],
    }
    is_old = dice.random() < 0.5
    where = {"rope_scaling": scaling} if is_old else {"rope_parameters": {**scaling, "rope_theta": 20_000.0}}
    base = {"rope_theta": dice.choice([LEFT_OUT, 50_000.0]), "rope_scaling": LEFT_OUT, "rope_parameters": LEFT_OUT}
    return {
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "num_key_value_heads": dice.choice([heads, heads // 2]),
        **base,
        **(where if dice.random() < 0.7 else {}),
        "original_max_position_embeddings": dice.choice([LEFT_OUT, 16, 32, 64]),
        "partial_rotary_factor": share,
        "sliding_window": dice.choice([LEFT_OUT, None, 8, 24]),
        "pad_token_id": None,
        "resid_pdrop": dice.choice([LEFT_OUT, 0.0, 0.1]),
        "attention_bias": dice.choice([LEFT_OUT, False]),
    }


def glm4(dice: random.Random) -> dict[str, Any]:
    return {
        "head_dim": dice.choice([8, 16, 32]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        "partial_rotary_factor": dice.choice([LEFT_OUT, 0.5, 0.25, 1.0]),
        "pad_token_id": None,
    }


def glm4_moe(dice: random.Random) -> dict[str, Any]:
    drawn = _latent(dice)
    of_experts = ("moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "routed_scaling_factor")
    return {
        "head_dim": dice.choice([8, 16, 32]),
        **{key: drawn[key] for key in (*of_experts, "norm_topk_prob")},
        **_groups(dice),
        "num_hidden_layers": dice.choice([2, 4]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        "use_qk_norm": dice.choice([LEFT_OUT, False, True]),
        "partial_rotary_factor": dice.choice([LEFT_OUT, 0.5, 0.25, 1.0]),
    }


def olmo2(dice: random.Random) -> dict[str, Any]:
    return {"attention_bias": dice.choice([LEFT_OUT, False, True]), "pad_token_id": None}


def _both_kinds(dice: random.Random, local: str) -> dict[str, Any]:
    yarn = dice.choice([SCALINGS[0], SCALINGS[4], SCALINGS[6]])
    full = dice.choice([{}, {"rope_type": "default"}, {**yarn, "rope_theta": 50_000.0}, yarn])
    nested = {"full_attention": full or {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}
    if dice.random() < 0.5:
        nested["sliding_attention"]["rope_theta"] = 5_000.0
    old = {
        "rope_theta": dice.choice([LEFT_OUT, 20_000.0]),
        "rope_scaling": dice.choice([LEFT_OUT, None, yarn]),
        **({local: dice.choice([LEFT_OUT, 3_000.0])} if local else {}),
    }
    new = {"rope_parameters": nested}
    nothing = {"rope_parameters": LEFT_OUT, "rope_theta": LEFT_OUT, "rope_scaling": LEFT_OUT}
    return {**nothing, "original_max_position_embeddings": LEFT_OUT, **dice.choice([old, new])}


def olmo3(dice: random.Random) -> dict[str, Any]:
    return {
        **olmo2(dice),
        **_both_kinds(dice, ""),
        "sliding_window": dice.choice([4, 16]),
        **layer_types(dice, dice.choice([4, 4, 2])),
    }


def gemma3_text(dice: random.Random) -> dict[str, Any]:
    drawn = layer_types(dice, dice.choice([2, 4]))
    return {
        "hidden_act": LEFT_OUT,
        "hidden_activation": dice.choice([LEFT_OUT, "gelu_pytorch_tanh"]),
        "head_dim": dice.choice([8, 16, 32]),
        "query_pre_attn_scalar": dice.choice([LEFT_OUT, 8, 24]),
        "attention_bias": dice.choice([LEFT_OUT, False, True]),
        **_both_kinds(dice, "rope_local_base_freq"),
        "sliding_window": dice.choice([4, 16]),
        "sliding_window_pattern": dice.choice([LEFT_OUT, 2, 3]),
        **drawn,
        "final_logit_softcapping": dice.choice([LEFT_OUT, LEFT_OUT, None, 30.0]),
        "attn_logit_softcapping": dice.choice([LEFT_OUT, LEFT_OUT, None, 20.0]),
        "pad_token_id": 0,
    }


def granite(dice: random.Random) -> dict[str, Any]:
    return {
        **llama(dice),
        "embedding_multiplier": dice.choice([LEFT_OUT, 12.0, 2]),
        "attention_multiplier": dice.choice([0.25, 0.125, 0.0625]),
        "residual_multiplier": dice.choice([LEFT_OUT, 0.22, 0.5]),
        "logits_scaling": dice.choice([LEFT_OUT, 8.0, 0.5]),
    }


FAMILIES: dict[str, Draw] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "gemma3_text": gemma3_text,
    "glm": glm4,
    "glm4": glm4,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "granite": granite,
    "llama": llama,
    "ministral": ministral,
    "mistral": mistral,
    "mixtral": mixtral,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
}
