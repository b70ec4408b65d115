"""A small corpus and the recipe that the tests train on it."""

import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

from mai.data.prepare import prepare
from mai.recipe import Recipe
from recipes.debug.tiny import tiny

_PACKAGES = ("json", "asyncio", "email", "logging", "unittest")


def write_corpus(folder: Path) -> Path:
    """Some 1 MB of real source files, the same on every machine with this Python."""
    library = Path(sysconfig.get_paths()["stdlib"])
    folder.mkdir(parents=True)
    for package in _PACKAGES:
        for source in sorted((library / package).glob("*.py")):
            (folder / f"{package}_{source.name}").write_bytes(source.read_bytes())
    return folder


def prepared_recipe(folder: Path) -> Recipe:
    """`tiny` on that corpus, tokenised under `folder`."""
    recipe = tiny()
    documents = write_corpus(folder / "documents")
    recipe = replace(
        recipe,
        data=replace(recipe.data, documents=(str(documents),), folder=str(folder / "prepared"), held_out_fraction=0.1),
    )
    prepare(recipe, workers=1)
    return recipe


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    """The recipe with fields of its sections replaced: changed(recipe, train={"steps": 5})."""
    return replace(recipe, **{name: replace(getattr(recipe, name), **fields) for name, fields in sections.items()})
