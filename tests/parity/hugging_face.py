"""Tiny random models of every family, written by transformers: what tests import, and hold logits against."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from mai.data.tokenizer import train_tokenizer

LENGTH = 48
VOCAB_SIZE = 300

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_QWEN_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
_DEEPSEEK = {
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
_FOUR_GROUPS = {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "n_shared_experts": 2}

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "llama": [{"head_dim": 16}, {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}, {"rope_parameters": _LLAMA3}],
    "mistral": [
        {"sliding_window": None},
        {"sliding_window": 8, "head_dim": 32},
        {"sliding_window": 16, "num_key_value_heads": 4},
    ],
    "mixtral": [
        _MIXTRAL,
        {"num_local_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 4},
        {**_MIXTRAL, "sliding_window": 8},
    ],
    "qwen3": [
        {"head_dim": 32},
        {"head_dim": 16, "tie_word_embeddings": True},
        {"head_dim": 16, "rope_parameters": _YARN},
    ],
    "qwen3_moe": [
        {**_QWEN_EXPERTS, "head_dim": 32},
        {**_QWEN_EXPERTS, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 48},
        {**_QWEN_EXPERTS, "head_dim": 16, "num_hidden_layers": 4, "rope_parameters": {"rope_theta": 1e6}},
    ],
    "deepseek_v3": [
        _DEEPSEEK,
        {**_DEEPSEEK, "q_lora_rank": None, "first_k_dense_replace": 2},
        {**_DEEPSEEK, **_FOUR_GROUPS, "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ],
    "gpt_oss": [
        {"head_dim": 16, "sliding_window": 16, **_MIXTRAL},
        {"head_dim": 32, "sliding_window": 4, "num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 4},
        {"head_dim": 16, "sliding_window": 8, **_MIXTRAL, "rope_parameters": {**_YARN, "truncate": True}},
    ],
}
CASES = [(family, number) for family, configs in CONFIGS.items() for number in range(len(configs))]


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (2, LENGTH), generator=torch.Generator().manual_seed(7))


def write_model(
    folder: Path, family: str, number: int, *, dtype: torch.dtype = torch.float32, shard_size: str = "50GB"
) -> torch.Tensor:
    """Save a model with a tokenizer; returns its logits of `tokens()`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(number)
    sizes = {**_SIZES, **CONFIGS[family][number], "vocab_size": VOCAB_SIZE, "eos_token_id": 0, "bos_token_id": 0}
    config = AutoConfig.for_model(family, **sizes)
    config._attn_implementation = "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        # Weights large enough that every part of the model shows in the logits.
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and "bias" not in name and "sinks" not in name
            parameter.uniform_(0.5, 1.5) if is_norm else parameter.normal_(0, 0.08)
        for name, buffer in model.named_buffers():
            if "correction" in name:
                buffer.normal_(0, 0.1)
        logits: torch.Tensor = model(tokens()).logits
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    write_tokenizer(folder)
    return logits


def write_tokenizer(folder: Path) -> None:
    train_tokenizer(["the capital of France is Paris"], vocab_size=VOCAB_SIZE - 20).save(str(folder / "tokenizer.json"))


def add_further_depth(folder: Path) -> None:
    """Give a saved DeepSeek-V3 the layer of multi-token prediction that transformers does not write, after the names in
    the index of deepseek-ai/DeepSeek-V3 (model.safetensors.index.json)."""
    tensors, config = read_tensors(folder), config_of(folder)
    last, further = (f"model.layers.{config['num_hidden_layers'] - 1 + step}." for step in (0, 1))
    generator = torch.Generator().manual_seed(1)
    hidden = config["hidden_size"]
    own = {name.replace(last, further): tensor.shape for name, tensor in tensors.items() if name.startswith(last)}
    own |= {f"{further}{name}.weight": torch.Size([hidden]) for name in ("enorm", "hnorm", "shared_head.norm")}
    own[f"{further}eh_proj.weight"] = torch.Size([hidden, 2 * hidden])
    added = {name: torch.randn(shape, generator=generator) for name, shape in own.items()}
    added[f"{further}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    added[f"{further}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    write_tensors(folder, tensors | added)
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """In one file, instead of those that are there."""
    from safetensors.torch import save_file

    for file in folder.glob("*.safetensors"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]
