"""Sizes of the open families are the published ones, and a config that is written is read back as the same model."""

from dataclasses import replace
from typing import Any

import pytest

from mai.errors import RecipeError
from mai.model.families import (
    deepseek_v2,
    deepseek_v3,
    gemma3_text,
    glm,
    glm4,
    glm4_moe,
    gpt_oss,
    granite,
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
from mai.model.families.choose_family import FAMILIES, family_of, lost, reader
from mai.model.shapes import buffers, num_active_parameters, num_parameters, parameters
from mai.recipe import ModelConfig, YarnPositions

# Billions of parameters, in all and active, as the model cards, their weights' index and papers have them.
PUBLISHED: dict[str, tuple[ModelConfig, float, float | None]] = {
    "Llama 3 8B": (llama.SIZES["8b"], 8.03, None),
    "Llama 3 70B": (llama.SIZES["70b"], 70.55, None),
    "Llama 3 405B": (llama.SIZES["405b"], 405.85, None),
    "Mistral 7B": (mistral.SIZES["7b"], 7.24, None),
    "Mixtral 8x7B": (mixtral.SIZES["8x7b"], 46.7, 12.88),
    "Qwen3 0.6B": (qwen3.SIZES["0.6b"], 0.596, None),
    "Qwen3 8B": (qwen3.SIZES["8b"], 8.19, None),
    "Qwen3 32B": (qwen3.SIZES["32b"], 32.76, None),
    "Qwen3 30B-A3B": (qwen3_moe.SIZES["30b_a3b"], 30.53, 3.35),
    "Qwen3 235B-A22B": (qwen3_moe.SIZES["235b_a22b"], 235.09, 22.19),
    # 671.03 and 11.61 of multi-token prediction.
    "DeepSeek-V3": (deepseek_v3.SIZES["671b_a37b"], 682.64, 37.55),
    "gpt-oss 20B": (gpt_oss.SIZES["20b"], 20.91, None),
    "gpt-oss 120B": (gpt_oss.SIZES["120b"], 116.83, None),
    "Qwen2.5 0.5B": (qwen2.SIZES["0.5b"], 0.494, None),
    "Qwen2.5 7B": (qwen2.SIZES["7b"], 7.62, None),
    "Qwen2.5 72B": (qwen2.SIZES["72b"], 72.71, None),
    "Qwen2 57B-A14B": (qwen2_moe.SIZES["57b_a14b"], 57.41, 14.25),
    "Phi-3 mini": (phi3.SIZES["3_mini_4k"], 3.82, None),
    "Phi-4": (phi3.SIZES["4_14b"], 14.66, None),
    "GLM-4 9B": (glm.SIZES["4_9b"], 9.40, None),
    "GLM-4 32B": (glm4.SIZES["32b"], 32.57, None),
    # 358.34, of which 1.55 are copies of embedding and output layer with the further depth.
    "GLM-4.5": (glm4_moe.SIZES["355b_a32b"], 356.79, None),
    "Granite 3.3 8B": (granite.SIZES["3_8b"], 8.17, None),
    "Ministral 8B": (ministral.SIZES["8b"], 8.02, None),
    "Seed-OSS 36B": (seed_oss.SIZES["36b"], 36.15, None),
    "SmolLM3 3B": (smollm3.SIZES["3b"], 3.08, None),
    "OLMo 2 7B": (olmo2.SIZES["7b"], 7.30, None),
    "OLMo 2 32B": (olmo2.SIZES["32b"], 32.23, None),
    "OLMo 3 7B": (olmo3.SIZES["7b"], 7.30, None),
    # arXiv 2503.19786, table 1: 1,012 million of the embedding and 10,759 others.
    "Gemma 3 12B": (gemma3_text.SIZES["12b"], 11.77, None),
    "DeepSeek-V2-Lite": (deepseek_v2.SIZES["lite_16b_a2b"], 15.71, None),
    "DeepSeek-V2": (deepseek_v2.SIZES["236b_a21b"], 235.74, 21.38),
}
"""Kimi K2 is published as a trillion, 32 of them active, and nothing closer."""
SIZES = [(name, size) for name, family in FAMILIES.items() for size in family.SIZES]


@pytest.mark.parametrize(("model", "billions", "active_billions"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_sizes_are_the_published_ones(model: ModelConfig, billions: float, active_billions: float | None) -> None:
    assert num_parameters(model) / 1e9 == pytest.approx(billions, abs=0.006)
    if active_billions is not None:
        assert num_active_parameters(model) / 1e9 == pytest.approx(active_billions, abs=0.006)


def read(family: Any, config: dict[str, Any]) -> ModelConfig:
    values = reader(config["model_type"], config)
    model: ModelConfig = family.model_of(values)
    values.finish("config.json")
    return model


def as_exported(model: ModelConfig) -> ModelConfig:
    """Without what config.json does not know: how experts are balanced."""
    if model.experts is None:
        return model
    experts = replace(model.experts, auxiliary_loss="none", auxiliary_loss_weight=0.0, bias_update_rate=0.0)
    return replace(model, feed_forward=experts)


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_config_that_is_written_is_read_back(name: str, size: str) -> None:
    family = FAMILIES[name]
    model = family.SIZES[size]
    config = family.config_of(model, context=8192)
    assert as_exported(read(family, config)) == as_exported(model)
    assert config["model_type"] == name
    assert lost(model, name) == lost(model, family_of(model)) == []


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_weight_map_makes_every_tensor_once(name: str, size: str) -> None:
    family = FAMILIES[name]
    model = replace(family.SIZES[size], num_layers=min(4, family.SIZES[size].num_layers))
    targets = [rule.target for rule in family.rules(model)]
    assert len(set(targets)) == len(targets)
    experts = range(model.experts.num_experts) if model.experts else range(0)
    wanted = {
        (parameter.name, expert)
        for parameter in (*parameters(model), *buffers(model))
        for expert in (experts if parameter.is_expert else [None])
    }
    assert {(target.name, target.expert) for target in targets} == wanted
    sources = [source for rule in family.rules(model) for source in rule.making.sources]
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("family", [gemma3_text, olmo3])
def test_bounds_of_yarn_that_transformers_would_not_read_are_not_read_and_not_written(family: Any) -> None:
    """It looks for `truncate` beside the kinds of layers, and only finds the kinds there."""
    model = next(iter(family.SIZES.values()))
    yarn = YarnPositions(factor=8.0, original_length=1024, rotation_scale=1.2)
    config = family.config_of(replace(model, positions=yarn), context=8192)
    assert read(family, config).positions == yarn
    config["rope_parameters"]["full_attention"]["truncate"] = False
    with pytest.raises(RecipeError, match=r"full_attention.truncate=False: mai supports True or None"):
        read(family, config)
    name = config["model_type"]
    assert lost(replace(model, positions=replace(yarn, whole_bounds=False)), name) == ["positions"]


def test_more_than_one_further_depth_is_not_read_and_not_written() -> None:
    model = deepseek_v3.SIZES["671b_a37b"]
    config = deepseek_v3.config_of(replace(model, multi_token_depths=2), context=8192)
    with pytest.raises(RecipeError, match=r"num_nextn_predict_layers=2: mai supports 0 or 1"):
        read(deepseek_v3, config)
    assert deepseek_v3.model_of(reader("deepseek_v3", config)).multi_token_depths == 1, (
        "so that an export sees the loss"
    )
