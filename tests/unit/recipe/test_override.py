import itertools
from typing import Any

import pytest

from mai.errors import RecipeError
from mai.recipe import Cosine, OptimizerConfig, WarmupStableDecay, override, to_dict
from mai.recipe.knobs import KNOBS, flat, value_at
from tests.unit.recipe.samples import experts, latent, small


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.steps=50", 50),
        ("train.steps=1_000", 1000),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.learning_rate=1", 1.0),
        ("model.rotary_base=500_000", 500_000.0),
        ("checkpoint.every_steps=5", 5),
        ("checkpoint.every_steps=none", None),
        ("data.tokenizer=none", None),
        ("data.tokenizer=tokenizer.json", "tokenizer.json"),
        ("name=none", "none"),
        ("name=a=b", "a=b"),
        ("name = spaced out ", "spaced out"),
        ("data.documents=corpus, more.jsonl", ["corpus", "more.jsonl"]),
        ("observe.sinks=wandb", ["wandb"]),
        ("observe.sinks=", []),
        ("parallel.recompute=attention_core, norms", ["attention_core", "norms"]),
        ("parallel.recompute=", []),
        ("model.layer=none", None),
        ("precision.compute=bf16", "bf16"),
    ],
)
def test_a_value_takes_the_type_of_its_field(text: str, value: Any) -> None:
    found = value_at(text.partition("=")[0].strip(), to_dict(override.apply(small(), [text])))
    assert found == value
    assert type(found) is type(value)


def test_true_and_false_switch() -> None:
    switched = override.apply(small(), ["parallel.sequence=true", "parallel.tensor=2"])
    assert switched.parallel.sequence is True
    assert override.apply(switched, ["parallel.sequence=false"]).parallel.sequence is False


def test_overrides_leave_the_recipe_they_start_from_alone() -> None:
    before = small()
    override.apply(before, ["train.steps=7"])
    assert before == small()


def test_no_overrides_give_an_equal_recipe() -> None:
    assert override.apply(small(), []) == small()


def test_the_order_of_overrides_does_not_matter() -> None:
    words = [
        "optimizer.schedule.kind=warmup_stable_decay",
        "optimizer.schedule.decay_fraction=0.5",
        "parallel.sequence=true",
        "parallel.tensor=2",
    ]
    assert len({override.apply(small(), order) for order in itertools.permutations(words)}) == 1


def test_another_kind_brings_its_own_defaults_and_keeps_what_was_set() -> None:
    schedule = Cosine(warmup_steps=3)
    recipe = override.apply(small(), ["optimizer.schedule.warmup_steps=3"])
    assert recipe.optimizer == OptimizerConfig(learning_rate=3e-3, schedule=schedule)
    changed = override.apply(recipe, ["optimizer.schedule.kind=warmup_stable_decay"])
    assert changed.optimizer.schedule == WarmupStableDecay(warmup_steps=3)
    set_too = override.apply(recipe, ["optimizer.schedule.final_fraction=0.3"])
    changed = override.apply(set_too, ["optimizer.schedule.kind=warmup_stable_decay"])
    assert changed.optimizer.schedule == WarmupStableDecay(warmup_steps=3, final_fraction=0.3)


def test_a_kind_goes_and_comes_back() -> None:
    for words in (latent(query_rank=16), experts(num_dense_layers=1)):
        there = override.apply(small(), words.split())
        kind = words.partition("=")[0]
        default = KNOBS[kind, None].default
        back = override.apply(there, [f"{kind}={default}", "model.num_kv_heads=2"])
        assert back == small()
        assert override.apply(back, words.split()) == there
        assert override.apply(there, [words.split()[0]]) == there


def test_a_field_of_a_newly_chosen_kind_can_be_set_with_it_in_any_order() -> None:
    words = experts(scores="sigmoid", bias_update_rate=1e-3).split()
    assert len({override.apply(small(), [*words[turn:], *words[:turn]]) for turn in range(len(words))}) == 1


def test_stages_may_be_written_out_with_commas() -> None:
    words = ["model.num_layers=9", "parallel.pipeline=4", "parallel.stages=Et*3|(tt|)*2,ttL"]
    assert override.apply(small(), words).parallel.stages == "Et*3|(tt|)*2,ttL"


def test_a_rule_that_hangs_on_a_doubtful_field_keeps_silent() -> None:
    with pytest.raises(RecipeError) as caught:
        override.apply(small(), ["parallel.tensr=2", "parallel.sequence=true", "model.head_size=15"])
    told = "\n".join(caught.value.violations)
    assert "parallel.tensr=2" in told
    assert "model.head_size=15" in told
    assert "parallel.sequence" not in told


def test_every_field_of_a_recipe_can_be_overridden_with_the_value_it_has() -> None:
    for recipe in (small(), override.apply(small(), [*latent().split(), *experts().split()])):
        for path, value in flat(to_dict(recipe)):
            text = "none" if value is None else ",".join(value) if isinstance(value, list) else str(value)
            text = text.lower() if isinstance(value, bool) else text
            assert override.apply(recipe, [f"{path}={text}"]) == recipe, path


def test_the_default_kind_of_a_section_is_the_one_that_the_recipe_has_when_it_says_nothing() -> None:
    said_nothing = to_dict(small())
    kinds = {path: knob.default for (path, _), knob in KNOBS.items() if path.endswith(".kind")}
    assert kinds == {path: value_at(path, said_nothing) for path in kinds}
    assert len(kinds) == 4


@pytest.mark.parametrize("text", ["name=\x1b[31mred", "name=\udcff", "train.steps=1\x00", "train\x07.steps=1"])
def test_characters_that_could_harm_a_terminal_are_refused_and_quoted(text: str) -> None:
    with pytest.raises(RecipeError, match="cannot be printed") as caught:
        override.apply(small(), [text])
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
