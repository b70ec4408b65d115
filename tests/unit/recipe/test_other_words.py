"""Whoever comes from another framework is told what the field is called here."""

import pytest

from mai.errors import RecipeError
from mai.recipe import override
from mai.recipe.knobs import KNOBS
from mai.recipe.other_words import SAID_FOR
from recipes.debug.tiny import tiny


def test_each_word_stands_for_a_field_that_there_is_and_is_none_itself() -> None:
    names = {path.rpartition(".")[2] for path, _ in KNOBS}
    assert set(SAID_FOR.values()) <= names
    assert not set(SAID_FOR) & names


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("optimizer.lr=1e-3", "optimizer.learning_rate"),
        ("optimizer.clip_grad=1", "optimizer.clip_norm"),
        ("parallel.tp=2", "parallel.tensor"),
        ("train.max_steps=5", "train.steps"),
        ("model.d_model=64", "model.hidden_size"),
    ],
)
def test_another_frameworks_word_is_answered_with_ours(written: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override.apply(tiny(), [written])
    assert meant in str(caught.value)
