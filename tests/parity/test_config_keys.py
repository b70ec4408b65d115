"""Every key of a config.json is obeyed, known to change nothing, or refused by name; and a key that is missing has the
default of the class in the transformers that is installed."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.errors import RecipeError
from mai.model.families.choose_family import FAMILIES, reader
from mai.model.hf_config import CHANCE, CHANGES_NOTHING, GENERATION
from tests.families.compare import fill
from tests.parity.hugging_face import VOCAB_SIZE, tokens

CLASSES = [name for name in FAMILIES if name != "kimi_k2"]  # which transformers takes for a DeepSeek-V3
LOOKED_AT = {"is_encoder_decoder", "chunk_size_feed_forward"}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 64,
}


def config_class(family: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[family]


def walked() -> Iterator[tuple[str, str]]:
    """Every field of every family's class."""
    for family in CLASSES:
        yield from ((family, field.name) for field in fields(config_class(family)))


@pytest.mark.parametrize(("family", "field"), walked(), ids=str)
def test_a_field_of_the_class_is_obeyed_with_its_default_or_changes_nothing(family: str, field: str) -> None:
    (found,) = (one for one in fields(config_class(family)) if one.name == field)
    name = FAMILIES[family].ALIASES.get(field, field)
    if name in CHANGES_NOTHING | GENERATION | LOOKED_AT | set(CHANCE) and name not in FAMILIES[family].DEFAULTS:
        return
    default = found.default if found.default is not MISSING else found.default_factory()  # type: ignore[misc]
    said = FAMILIES[family].DEFAULTS[name]
    if default is None and said is not None:
        # Made by the class itself, as gpt-oss's positions are.
        made = getattr(config_class(family)(), field)
        assert {key: made[key] for key in said} == said
    else:
        assert said == default


@pytest.mark.parametrize("family", CLASSES)
def test_a_default_that_is_no_field_is_what_the_class_makes(family: str) -> None:
    names = {FAMILIES[family].ALIASES.get(field.name, field.name) for field in fields(config_class(family))}
    made = config_class(family)()
    rotary = made.rope_parameters.get("full_attention", made.rope_parameters)
    local = made.rope_parameters.get("sliding_attention", {}).get("rope_theta")
    said = {
        "rope_theta": rotary["rope_theta"],
        "partial_rotary_factor": rotary.get("partial_rotary_factor"),
        "rope_local_base_freq": local,
        "sliding_window_pattern": getattr(made, "_sliding_window_pattern", None),
    }
    for name in FAMILIES[family].DEFAULTS.keys() - names:
        assert FAMILIES[family].DEFAULTS[name] == said[name], name


def logits(folder: Path, config: dict[str, Any]) -> torch.Tensor:
    """transformers', of the same weights whatever the config says beside them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **TINY, **config}))
    read = AutoConfig.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(read, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(1)
    fill(model)
    with torch.no_grad():
        found: torch.Tensor = model(tokens(), return_dict=True).logits
    return found


ODD = {
    "architectures": ["Somebodys"],
    "auto_map": {"AutoConfig": "mine.Config"},
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "label2id": {"a": 0},
    "num_labels": 3,
    "problem_type": "regression",
    "use_cache": False,
    "output_hidden_states": True,
    "output_router_logits": True,
    "bos_token_id": 7,
    "eos_token_id": [5, 6],
    "pad_token_id": None,
    "transformers_version": "4.0.0",
    "attn_implementation": "eager",
    "_attn_implementation": "eager",
    "experts_implementation": "eager",
    "pretraining_tp": 4,
    "tie_last_hidden_states": True,
    "is_llama_config": False,
    "rope_interleaved": True,
    "use_mrope": True,
    "lm_head_bias": True,
    "transformers.js_config": {"kv_cache_dtype": "fp16"},
}
"""What is said of a key, where 7 is not a thing to say."""
OF_OTHERS = {"use_mrope": "qwen2", "interpolate_factor": "phi3", "full_attn_mod": "phi3", "lm_head_bias": "phi3"}
"""Which family's published files say it, where that is not Llama."""


def test_what_is_said_to_change_nothing_changes_nothing(tmp_path: Path) -> None:
    plain = logits(tmp_path / "plain", {})
    assert float(plain.abs().max()) > 0.1
    for key in sorted(CHANGES_NOTHING - {"model_type"} - OF_OTHERS.keys()):
        assert torch.equal(logits(tmp_path / key, {key: ODD.get(key, 7)}), plain), key
    for key, family in OF_OTHERS.items():
        other = {"model_type": family, "pad_token_id": None}
        as_it_is = logits(tmp_path / f"{key} missing", other)
        assert torch.equal(logits(tmp_path / key, {**other, key: ODD.get(key, 7)}), as_it_is), key
    everything = dict.fromkeys(GENERATION, 7) | {"cache_implementation": "dynamic"}
    assert torch.equal(logits(tmp_path / "generation", everything), plain)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llama", "invented", 1),
        ("llama", "quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("llama", "quantization_config", {"quant_method": "fp8", "weight_block_size": [64, 64]}),
        ("llama", "per_layer_config", {"0": {"num_key_value_heads": 1}}),
        ("llama", "final_logit_softcapping", 30.0),
        ("qwen3", "partial_rotary_factor", 0.5),
        ("mistral", "layer_types", ["full_attention"] * 2),
        ("mixtral", "num_experts", 3),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("phi3", "rope_scaling", {"type": "yarn", "factor": 2.0}),
        ("phi3", "rope_parameters", {"rope_type": "linear", "factor": 2.0}),
        ("llama", "rope_parameters", {"rope_type": "default", "invented": 2}),
    ],
    ids=str,
)
def test_what_nobody_looks_at_is_refused_by_name(family: str, key: str, value: object) -> None:
    config = {"model_type": family, **TINY, "num_local_experts": 4, key: value}
    if family != "mixtral":
        del config["num_local_experts"]
    values = reader(family, config)
    FAMILIES[family].model_of(values)
    with pytest.raises(RecipeError, match=key):
        values.finish("config.json")


def test_what_only_training_knows_is_told() -> None:
    values = reader("llama", {"model_type": "llama", **TINY, "attention_dropout": 0.1})
    FAMILIES["llama"].model_of(values)
    values.finish("config.json")
    assert values.told == ["attention_dropout=0.1 is not obeyed: mai trains without chance"]
