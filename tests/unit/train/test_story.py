"""Which changes of a recipe a run may resume with, and what it writes of itself."""

from dataclasses import replace

import pytest

from mai.errors import ExitCode
from mai.recipe import Recipe, to_dict
from mai.train.story import changed_training, good_end, plain_layout
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


def test_a_field_that_only_one_of_them_has_is_named() -> None:
    old = to_dict(TINY)
    del old["train"]["seed"]
    assert changed_training(old, to_dict(TINY)) == ["train.seed=0: this run was started with None"]


def test_a_good_end_says_where_it_stands_and_what_is_next() -> None:
    end = good_end(ExitCode.PREEMPTED, step=7, steps=20, last_committed_step=7)
    assert (end.code, end.name, end.culprit, end.evidence) == (210, "PREEMPTED", None, "step 7 of 20")
    assert "start the same command again" in end.suggestion


def test_a_layout_reads_as_people_say_it() -> None:
    assert plain_layout({"tensor": 2, "pipeline": 1, "data": 4}) == "tensor 2, pipeline 1, data 4"
