"""Bad recipes and what people are told: tables, by Python and by the command line's words."""

from pathlib import Path

import pytest

from mai.errors import ExitCode, RecipeError
from mai.recipe import Recipe, load, override
from tests.unit.recipe.bad import Bad
from tests.unit.recipe.bad_layouts import BAD_LAYOUTS
from tests.unit.recipe.bad_models import BAD_MODELS
from tests.unit.recipe.bad_rules import BAD_RULES
from tests.unit.recipe.bad_values import BAD_VALUES

TOGETHER = {
    "many at once": Bad(
        overrides="parallel.tensr=3 train.steps=-1 parallel.pipeline=3 model.head_size=15 precision.compute=fp8 oops",
        ranks=7,
        messages=(
            "oops: write it as path=value",
            "parallel.tensr=3: no such field; did you mean parallel.tensor?",
            "train.steps=-1: must be at least 1; the nearest valid value is 1",
            "precision.compute=fp8: must be one of bf16, fp32",
            "model.head_size=15: must be even",
            "model.num_layers=4, parallel.pipeline=3, parallel.stages=even: every stage must hold the same number",
        ),
    ),
}

BAD = BAD_VALUES | BAD_RULES | BAD_MODELS | BAD_LAYOUTS | TOGETHER


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_recipe_is_told_everything_at_once(bad: Bad, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        override.apply(_recipe(bad.edit, tmp_path), bad.overrides.split(), world_size=bad.ranks)
    assert caught.value.code == ExitCode.CONFIG
    told = "\n".join(caught.value.violations)
    for message in bad.messages:
        assert message in told
    unexpected = [told for told in caught.value.violations if not any(message in told for message in bad.messages)]
    assert not unexpected


def test_the_table_has_at_least_forty_bad_recipes() -> None:
    assert len(BAD) >= 40


def _recipe(edit: str, folder: Path) -> Recipe:
    """Built by a recipe file, as a person's own would be."""
    file = folder / "mine.py"
    file.write_text(
        "import math\n"
        "from dataclasses import replace\n"
        "from mai.recipe import *\n"
        "from tests.unit.recipe.samples import small\n"
        "def mine() -> Recipe:\n"
        "    base = small()\n"
        f"    return {edit}\n"
    )
    return load.find(f"{file}:mine")()
