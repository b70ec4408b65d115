from dataclasses import replace

import pytest

from mai.errors import RecipeError
from mai.recipe import ParallelConfig, override, rules
from mai.recipe.knobs import KNOBS
from tests.unit.recipe.samples import small


def test_a_good_recipe_breaks_no_rule() -> None:
    assert rules.violations(small()) == []
    rules.check(small(), world_size=8)


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        ("parallel.tensor=2 parallel.pipeline=2 parallel.data=2", 8),
        ("parallel.tensor=2 parallel.pipeline=2 parallel.sequence=true", 8),
        ("parallel.pipeline=4", 4),
        ("parallel.data=8", 8),
        ("checkpoint.every_steps=1000 evaluate.every_steps=1000", 1),
        ("optimizer.schedule.warmup_steps=19", 1),
        ("optimizer.schedule.kind=warmup_stable_decay optimizer.schedule.warmup_steps=16", 1),
        ("model.head_size=2 model.num_heads=2 model.num_kv_heads=1", 1),
        ("data.tokenizer=tokenizer.json model.vocab_size=16", 1),
    ],
)
def test_what_the_rules_allow(words: str, ranks: int) -> None:
    override.apply(small(), words.split(), world_size=ranks)


def test_check_raises_every_breach_together() -> None:
    bad = replace(small(), parallel=ParallelConfig(tensor=3, pipeline=3))
    with pytest.raises(RecipeError) as caught:
        rules.check(bad)
    assert list(caught.value.violations) == rules.violations(bad)
    assert len(caught.value.violations) == 5


def test_suggested_values_are_legal() -> None:
    """The first way out that each message of the batch rules names is taken, and it works."""
    for words, way_out in [
        (["parallel.data=3", "evaluate.sequences=63"], "train.batch_tokens=384"),
        (["parallel.data=3", "train.batch_tokens=576"], "evaluate.sequences=66"),
        (["parallel.pipeline=4", "parallel.data=4"], "train.batch_tokens=1024"),
        (["parallel.pipeline=3"], "model.num_layers=6"),
        (["optimizer.schedule.warmup_steps=20"], "train.steps=21"),
    ]:
        with pytest.raises(RecipeError):
            override.apply(small(), words)
        override.apply(small(), [*words, way_out])


def test_breaches_name_paths_that_exist() -> None:
    bad = override.apply(small(), ["parallel.data=2", "data.tokenizer=t.json"])
    bad = replace(bad, parallel=ParallelConfig(tensor=3, pipeline=3, data=3, sequence=True))
    known = {path for path, _ in KNOBS}
    found = rules.breaches(bad, world_size=5)
    assert len(found) >= 7
    assert {path for breach in found for path in breach.paths} <= known


def test_huge_numbers_are_judged_at_once() -> None:
    huge = f"{2**62 - 1}"
    with pytest.raises(RecipeError, match=r"parallel\.pipeline"):
        override.apply(small(), [f"model.num_layers={huge}", "parallel.pipeline=2"])
    with pytest.raises(RecipeError, match=r"parallel\.tensor"):
        override.apply(small(), [f"parallel.tensor={huge}"], world_size=int(huge))
