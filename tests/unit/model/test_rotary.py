"""Rotary frequencies are those of transformers, scaled or not."""

from dataclasses import replace
from typing import Any

import pytest

from mai.model import rotary
from mai.model.families import deepseek_v3, gpt_oss, llama
from mai.model.hf_rotary import rotary_parameters
from mai.recipe import Llama3Positions, ModelConfig, UnscaledPositions, YarnPositions

LENGTH = 48

MODELS = {
    "llama3": llama.SIZES["405b"],
    "llama3, less": replace(llama.SIZES["8b"], positions=Llama3Positions(factor=2.0, original_length=512)),
    "yarn of gpt-oss": gpt_oss.SIZES["120b"],
    "yarn of DeepSeek": deepseek_v3.SIZES["671b_a37b"],
    "yarn, whole bounds": replace(
        llama.SIZES["8b"], positions=YarnPositions(factor=4.0, original_length=8192), rotary_base=1e6
    ),
}


def of_transformers(model: ModelConfig) -> tuple[Any, float]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = rotary_parameters(model.rotary_base, model.positions)
    size = model.rotary_size
    config = LlamaConfig(hidden_size=size, num_attention_heads=1, head_dim=size, rope_parameters=parameters)
    frequencies, scale = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, device="cpu")
    return frequencies, float(scale)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_frequencies_and_scale_are_those_of_transformers(model: ModelConfig) -> None:
    frequencies, scale = of_transformers(model)
    assert rotary.frequencies(model, length=LENGTH) == pytest.approx(frequencies.tolist(), rel=1e-6)
    assert rotary.rotation_scale(model) == pytest.approx(scale, rel=1e-6)


def test_deepseek_sharpens_the_softmax() -> None:
    """modeling_deepseek.py: mscale = 0.1 * ln(40) + 1, squared, over the root of a query's 192 numbers."""
    assert rotary.softmax_scale(deepseek_v3.SIZES["671b_a37b"]) == pytest.approx(1.36888794541**2 / 192**0.5)
    assert rotary.softmax_scale(llama.SIZES["8b"]) is None


def test_unscaled_frequencies_are_powers_of_the_base() -> None:
    """RoFormer, section 3.2.2."""
    model = replace(llama.SIZES["8b"], positions=UnscaledPositions(), head_size=4, rotary_base=10_000.0)
    assert rotary.frequencies(model, length=LENGTH) == pytest.approx([1.0, 0.01])
