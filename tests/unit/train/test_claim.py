"""Which changes of a recipe a run may resume with."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from mai.recipe import Recipe, to_dict
from mai.train.claim import changed_training
from recipes.debug.tiny import tiny
from tests.corpus import changed

TINY = tiny()


def test_what_is_trained_may_not_change_and_every_field_is_named() -> None:
    new = changed(TINY, optimizer={"learning_rate": 1e-2}, train={"seed": 7})
    assert changed_training(to_dict(TINY), to_dict(new)) == [
        f"optimizer.learning_rate=0.01: this run was started with {TINY.optimizer.learning_rate}",
        "train.seed=7: this run was started with 0",
    ]


@pytest.mark.parametrize(
    "new",
    [
        TINY,
        replace(TINY, name="other"),
        changed(TINY, parallel={"tensor": 2, "pipeline": 2, "data": 2, "sequence": True}),
        changed(TINY, checkpoint={"every_steps": 5, "keep": 7}),
        changed(TINY, evaluate={"every_steps": 5}),
        changed(TINY, observe={"sinks": ("wandb",)}),
        changed(TINY, data={"folder": "elsewhere"}),
    ],
)
def test_who_computes_and_what_is_watched_may_change(new: Recipe) -> None:
    assert changed_training(to_dict(TINY), to_dict(new)) == []


def fields(value: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """The path of every field of a recipe's JSON."""
    for name, entry in value.items():
        yield from fields(entry, *above, name) if isinstance(entry, dict) else [(*above, name)]


@pytest.mark.parametrize("path", list(fields(to_dict(TINY))), ids=".".join)
def test_every_field_of_the_sections_that_are_trained_is_compared_and_no_other(path: tuple[str, ...]) -> None:
    changed_recipe = deepcopy(to_dict(TINY))
    section = changed_recipe
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = "other"
    is_trained = path[0] in ("model", "data", "optimizer", "train", "precision", "objective")
    is_trained |= path in (("checkpoint", "start_from"), ("checkpoint", "take"))
    names = [line.partition("=")[0] for line in changed_training(to_dict(TINY), changed_recipe)]
    assert names == ([".".join(path)] if is_trained and path != ("data", "folder") else [])


def test_a_field_that_the_older_one_does_not_know_was_as_its_default() -> None:
    old = to_dict(TINY)
    del old["train"]["seed"]
    assert changed_training(old, to_dict(TINY)) == []
    new = changed(TINY, train={"seed": 7})
    assert changed_training(old, to_dict(new)) == ["train.seed=7: this run was started with 0"]


def test_a_field_that_only_the_older_one_knows_is_named() -> None:
    new = to_dict(TINY)
    del new["train"]["seed"]
    assert changed_training(to_dict(TINY), new) == ["train.seed=None: this run was started with 0"]
