"""A small corpus and the recipe that the tests train on it."""

import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def recipe_on(folder: Path) -> Recipe:
    """`tiny` on the corpus of `folder / "documents"`, to be tokenised beside it."""
    recipe, documents = tiny(), (str(folder / "documents"),)
    data = replace(recipe.data, documents=documents, folder=str(folder / "prepared"), held_out_fraction=0.1)
    return replace(recipe, data=data)


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    """The recipe with fields of its sections replaced: changed(recipe, train={"steps": 5})."""
    return replace(recipe, **{name: replace(getattr(recipe, name), **fields) for name, fields in sections.items()})
