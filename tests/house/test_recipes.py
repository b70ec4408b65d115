"""Every recipe that mai ships can be started as it stands."""

import pytest

from mai.recipe import load, rules


@pytest.mark.parametrize("recipe_name", load.names())
def test_a_shipped_recipe_passes_its_own_rules(recipe_name: str) -> None:
    rules.check(load.find(recipe_name)())
