"""The families of published models, by name: sizes, config.json and weight map, both ways, one file each."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from mai.model.families import (
    deepseek_v2,
    deepseek_v3,
    gemma3_text,
    glm,
    glm4,
    glm4_moe,
    gpt_oss,
    granite,
    kimi_k2,
    llama,
    ministral,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    seed_oss,
    smollm3,
)
from mai.model.hf_config import HfConfig
from mai.recipe import ModelConfig

FAMILIES: dict[str, ModuleType] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "gemma3_text": gemma3_text,
    "glm": glm,
    "glm4": glm4,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "granite": granite,
    "kimi_k2": kimi_k2,
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
"""By `model_type` of a Hugging Face config.json."""


def reader(name: str, config: Mapping[str, Any]) -> HfConfig:
    """A config.json of this family, to be read by its `model_of`."""
    return HfConfig(config, FAMILIES[name].DEFAULTS, aliases=FAMILIES[name].ALIASES)


def read_model(name: str, config: Mapping[str, Any]) -> ModelConfig:
    """The model of a config.json that was read before, and found to be whole."""
    model: ModelConfig = FAMILIES[name].model_of(reader(name, config))
    return model


def family_of(model: ModelConfig) -> str:
    """The `model_type` whose config.json says everything of this model, or the most."""
    of_heads = _DENSE if model.experts is None else _OF_EXPERTS
    names: Sequence[str] = of_heads if model.latent_attention is None else _LATENT
    return min(names, key=lambda name: len(lost(model, name)))


_LATENT = ("deepseek_v3", "deepseek_v2")
_DENSE = (
    *("llama", "mistral", "qwen2", "qwen3", "ministral", "smollm3", "seed_oss", "phi3", "glm", "glm4"),
    *("granite", "olmo2", "olmo3", "gemma3_text"),
)
_OF_EXPERTS = ("mixtral", "qwen3_moe", "qwen2_moe", "glm4_moe", "gpt_oss")
"""The plainest of each kind first."""


def lost(model: ModelConfig, name: str) -> list[str]:
    """The model's fields that a config.json of this family does not say; what only training knows does not count."""
    config = FAMILIES[name].config_of(model, context=1)
    back = read_model(name, config)
    own = [field for field in ("layer", "attention_core") if getattr(model, field) is not None]
    fields = [field for field in ModelConfig.__dataclass_fields__ if field not in _NOT_SAID]
    missing = [field for field in fields if getattr(model, field) != getattr(back, field)]
    if (experts := model.experts) is not None:
        missing += [
            f"feed_forward.{field}"
            for field in type(experts).__dataclass_fields__
            if field not in _BALANCING and getattr(experts, field) != getattr(back.feed_forward, field, None)
        ]
    return [*own, *missing]


_NOT_SAID = ("layer", "attention_core", "init_std", "feed_forward")
_BALANCING = ("auxiliary_loss", "auxiliary_loss_weight", "bias_update_rate")
