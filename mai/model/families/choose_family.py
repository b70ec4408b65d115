"""The families of published models, by name: sizes, config.json and weight map, both ways, one file each."""

from types import ModuleType

from mai.model.families import deepseek_v3, gpt_oss, llama, mistral, mixtral, qwen3, qwen3_moe
from mai.recipe import GroupedQueryAttention, LatentAttention, ModelConfig

FAMILIES: dict[str, ModuleType] = {
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
}
"""By `model_type` of a Hugging Face config.json."""


def family_of(model: ModelConfig) -> str:
    """The `model_type` whose models have these parts."""
    if isinstance(model.attention, LatentAttention):
        return "deepseek_v3"
    assert isinstance(model.attention, GroupedQueryAttention)
    if model.attention.sinks:
        return "gpt_oss"
    if model.attention.qk_norm:
        return "qwen3" if model.experts is None else "qwen3_moe"
    if model.experts is not None:
        return "mixtral"
    return "llama" if model.window is None else "mistral"
