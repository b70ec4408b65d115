import dataclasses
import json
from typing import Any

import pytest
from pydantic import ValidationError

from mai.errors import RecipeError
from mai.recipe import ModelConfig, OptimizerConfig, TrainConfig, describe, fingerprint, load, override, to_dict
from tests.unit.recipe.samples import experts, latent, small


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_only_a_whole_number_is_a_count(value: Any) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(steps=value, batch_tokens=64)


def test_a_whole_number_is_good_enough_for_a_number() -> None:
    assert OptimizerConfig(learning_rate=1) == OptimizerConfig(learning_rate=1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True])
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(learning_rate=value)
    with pytest.raises(ValidationError):
        dataclasses.replace(small().model, rotary_base=value)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        ModelConfig(**{**to_dict(small())["model"], "num_experts": 8})


def test_json_reads_back_to_an_equal_recipe() -> None:
    words = "optimizer.schedule.kind=warmup_stable_decay observe.sinks=wandb parallel.recompute=norms"
    recipe = override.apply(small(), f"{words} {latent()} {experts()}".split())
    back = load.from_json(json.dumps(to_dict(recipe)))
    assert back == recipe
    assert fingerprint(back) == fingerprint(recipe)


def test_any_changed_field_changes_the_fingerprint() -> None:
    assert fingerprint(small()) == fingerprint(small())
    assert fingerprint(override.apply(small(), ["train.seed=1"])) != fingerprint(small())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.json is not JSON"),
        ('{"name": ', "recipe.json is not JSON"),
        ("[" * 100_000, "recipe.json is not JSON"),
        ("[]", "must be a Recipe, not list"),
        ("{}", "train: missing, and it has no default"),
    ],
)
def test_a_damaged_recipe_json_is_told_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load.from_json(text)


def test_a_recipe_json_of_another_version_is_told_every_field() -> None:
    values = to_dict(small())
    values["train"] |= {"steps": 0, "stepz": 1}
    values["optimizer"]["schedule"] = {"kind": "linear"}
    values["model"]["vocab_size"] = 512.5
    with pytest.raises(RecipeError) as caught:
        load.from_json(json.dumps(values))
    assert sorted(caught.value.violations) == [
        "model.vocab_size=512.5: must be a whole number; the nearest valid value is 512",
        "optimizer.schedule.kind=linear: must be one of cosine, warmup_stable_decay",
        "train.steps=0: must be at least 1; the nearest valid value is 1",
        "train.stepz=1: no such field; did you mean train.steps?",
    ]


def test_what_differs_from_the_defaults_is_marked() -> None:
    recipe = override.apply(small(), ["optimizer.schedule.kind=warmup_stable_decay", "observe.sinks=wandb"])
    marked = [line for line in describe.lines(recipe) if line.startswith("*")]
    assert marked == [
        "* optimizer.schedule.kind=warmup_stable_decay  (default cosine)",
        "* precision.compute=fp32  (default bf16)",
        "* observe.sinks=wandb  (default empty)",
    ]


def test_every_line_of_the_description_can_be_typed_as_an_override() -> None:
    changes = "parallel.tensor=2 parallel.sequence=true parallel.recompute=norms observe.sinks=wandb"
    recipe = override.apply(small(), f"{changes} {latent()} {experts()}".split())
    words = [line[2:].partition("  (default")[0] for line in describe.lines(recipe)]
    assert override.apply(small(), words) == recipe


@pytest.mark.parametrize(
    ("fields", "turned"),
    [
        ({}, [0, 1, 2, 3]),
        ({"global_positions": False}, [0, 1, 2, 3]),
        ({"window": 8, "global_every": 2}, [0, 1, 2, 3]),
        ({"window": 8, "global_every": 2, "global_positions": False}, [0, 2]),
        ({"window": 8, "global_positions": False}, [0, 1, 2, 3]),
    ],
)
def test_without_global_positions_only_layers_with_a_window_turn_where_there_are_windows(
    fields: dict[str, Any], turned: list[int]
) -> None:
    model = dataclasses.replace(small().model, num_layers=4, **fields)
    assert [layer for layer in range(4) if model.turns(layer)] == turned
