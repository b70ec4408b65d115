"""Tiny corpora and recipes on them."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mai.recipe.recipe import Recipe
from recipes.debug.tiny import tiny

WORDS = ("the", "model", "reads", "text", "and", "writes", "what", "comes", "next", "def", "return", "while", "not")


def write_documents(folder: Path, *, number: int, words: int = 60, seed: int = 0) -> None:
    """`number` text files of random sentences, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for index in range(number):
        text = " ".join(draw.choices(WORDS, k=words)) + f"\n# {index}\n"
        (folder / f"{index:04}.txt").write_text(text)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    write_documents(folder, number=40)
    return folder


@pytest.fixture
def make_recipe(tmp_path: Path, corpus: Path) -> Callable[..., Recipe]:
    """The tiny recipe on the tiny corpus; keywords replace fields of `data`, `vocab_size` that of the model."""

    def make(*, vocab_size: int = 300, **fields: Any) -> Recipe:
        recipe = tiny()
        fields = {"documents": (str(corpus),), "folder": str(tmp_path / "prepared"), "held_out_fraction": 0.3} | fields
        return replace(
            recipe,
            model=replace(recipe.model, vocab_size=vocab_size),
            data=replace(recipe.data, **fields),
            evaluate=replace(recipe.evaluate, sequences=4),
        )

    return make
