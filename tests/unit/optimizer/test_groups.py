"""Which rule of update a parameter follows."""

from dataclasses import replace

import pytest

from mai.errors import RecipeError
from mai.model.shapes import parameters
from mai.optimizer.parameter_groups import GroupRule, check_names, rule_of
from mai.recipe import Recipe, fingerprint, override, rules, to_dict
from recipes.debug.tiny import tiny


def of_groups(*groups: str) -> Recipe:
    recipe = tiny()
    return replace(recipe, optimizer=replace(recipe.optimizer, groups=groups))


def test_norms_do_not_decay_and_all_matrices_do() -> None:
    optimizer = tiny().optimizer
    kept = {one.name for one in parameters(tiny().model) if rule_of(one.name, one.shape, optimizer).weight_decay == 0}
    assert kept == {one.name for one in parameters(tiny().model) if "norm" in one.name}


@pytest.mark.parametrize(("shape", "decay"), [((8,), 0.0), ((1, 8), 0.1)])
def test_decay_follows_the_number_of_dims_and_not_the_size(shape: tuple[int, ...], decay: float) -> None:
    assert rule_of("x", shape, tiny().optimizer) == GroupRule(1.0, decay)


def test_the_first_group_that_names_a_parameter_counts() -> None:
    optimizer = of_groups("*.linear_fc1.*:rate=0.5", "decoder.layers.0.*:frozen", "*norm*:decay=0.2").optimizer
    found = {
        name: rule_of(name, (8, 8), optimizer)
        for name in ("decoder.layers.0.mlp.linear_fc1.weight", "decoder.layers.0.mlp.linear_fc2.weight", "other")
    }
    assert list(found.values()) == [GroupRule(0.5, 0.1), GroupRule(1.0, 0.1, is_frozen=True), GroupRule(1.0, 0.1)]
    assert rule_of("decoder.final_layernorm.weight", (8,), optimizer) == GroupRule(1.0, 0.2)


def test_a_group_without_a_parameter_is_refused_with_a_name_that_there_is() -> None:
    with pytest.raises(RecipeError) as refused:
        check_names(
            of_groups("decoder.layers.*.mlp.linear_fc3.weight:rate=2", "embeding.*:frozen", "decoder.layrs.*:frozen")
        )
    first, second, third = refused.value.violations
    assert third.endswith("there is decoder.layers.*")
    with pytest.raises(RecipeError, match=r"there is decoder\.layers\.[0-3]\.\*$"):
        check_names(of_groups("decoder.layers.9.*:frozen"))
    assert first.endswith("there is decoder.layers.*.mlp.linear_fc2.weight")
    assert "optimizer.groups=embeding.*:frozen: no parameter of the model is called embeding.*" in second


def test_a_model_of_which_nothing_learns_is_refused() -> None:
    with pytest.raises(RecipeError, match="every parameter is frozen, so that nothing would learn"):
        check_names(of_groups("decoder.*:frozen", "*:frozen"))
    check_names(of_groups("*norm*:rate=1", "*:frozen"))


def test_a_group_whose_parameters_others_take_first_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"all that \*norm\* names is in groups before it"):
        check_names(of_groups("decoder.*:rate=0.1", "*norm*:decay=0"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("embedding.*", "says nothing of embedding.*"),
        (":frozen", "names no parameters"),
        ("a:frozen:rate=2", "what is frozen has no rate"),
        ("a:rate=fast", "rate=fast must be a number from 0 on"),
        ("a:rate=-1", "must be a number from 0 on"),
        ("a:rate=nan", "must be a number from 0 on"),
        ("a:rate=0", "write a:frozen"),
        ("a:rate=1:rate=2", "says a thing twice"),
        ("a:speed=2", "speed=2 is none of rate=NUMBER, decay=NUMBER and frozen"),
        ("a:", "nothing is none of"),
    ],
)
def test_what_is_not_understood_of_a_group_is_said(text: str, reason: str) -> None:
    (violation,) = rules.violations(of_groups(text))
    assert violation.startswith(f"optimizer.groups={text}: ")
    assert reason in violation


def test_groups_are_typed_on_the_command_line() -> None:
    typed = override.apply(tiny(), ["optimizer.groups=embedding.*:rate=0.1:decay=0, decoder.layers.0.*:frozen"])
    assert typed.optimizer.groups == ("embedding.*:rate=0.1:decay=0", "decoder.layers.0.*:frozen")


def test_a_recipe_without_groups_has_the_fingerprint_that_it_had_before_there_were_any() -> None:
    assert "groups" not in to_dict(tiny())["optimizer"]
    assert fingerprint(tiny()) != fingerprint(of_groups("embedding.*:frozen"))
