"""Who may train with a certificate, and what it says of itself."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mai.certify import certificate, certificate_text, subject
from mai.certify.certificate import Evidence
from mai.certify.compare import Comparison, Finding
from mai.certify.require import default_path, require
from mai.errors import RefusedError
from mai.recipe import Recipe
from mai.recipe.shrink import shrink
from mai.run_folder import plain_json
from tests.corpus import changed
from tests.unit.recipe.samples import small

COMMAND = "mai certify small parallel.tensor=2"


def finding(*, used: float, kind: str = "gradient", name: str = "output_layer.weight", step: int = 1) -> Finding:
    return Finding(
        step=step,
        kind=kind,
        name="" if kind in ("loss", "gradient norm") else name,
        difference=used * 1e-6,
        allowed=1e-6,
        one_rank=0.5,
        num_elements=100,
        wrong_ranks=(2, 3) if used > 1 else (),
        right_ranks=(0, 1) if used > 1 else (),
    )


def evidence(*, gradient: float = 0.5, loss: float = 0.1) -> Evidence:
    used = {"loss": loss, "gradient": gradient, "gradient norm": 0.1, "weight": 0.2}
    findings = [finding(used=share, kind=kind) for kind, share in used.items()]
    return Evidence(comparisons={"fp32": Comparison(findings)}, seconds={"fp32, 1 rank": 2.0}, draw=0)


@pytest.fixture
def recipe() -> Recipe:
    return changed(small(), parallel={"tensor": 2})


def certified(recipe: Recipe, found: Evidence) -> dict[str, Any]:
    tried = {"certified": subject.subject(recipe), "code": subject.code()}
    return certificate.certificate(recipe, shrink(recipe), found, **tried)


def write(recipe: Recipe, found: Evidence) -> Path:
    certificate.write(certified(recipe, found), default_path(recipe))
    return default_path(recipe)


@pytest.fixture
def path(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a valid certificate, below the working folder."""
    monkeypatch.chdir(tmp_path)
    return write(recipe, evidence())


@pytest.mark.usefixtures("path")
def test_a_valid_certificate_lets_its_layout_train(recipe: Recipe) -> None:
    require(recipe, command=COMMAND)


@pytest.mark.usefixtures("path")
def test_what_moves_nothing_between_ranks_needs_no_new_certificate(recipe: Recipe) -> None:
    for other in (
        changed(recipe, train={"steps": 7}),
        changed(recipe, optimizer={"learning_rate": 1e-4}),
        changed(recipe, data={"folder": "elsewhere"}),
        changed(recipe, observe={"sinks": ("wandb",)}),
    ):
        require(other, command=COMMAND)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parallel": {"tensor": 4}}, "parallel.tensor=4, certified 2"),
        ({"parallel": {"recompute": ("norms",)}}, "parallel.recompute"),
        ({"model": {"num_layers": 6}}, "model.num_layers=6, certified 4"),
        ({"precision": {"compute": "bf16"}}, "precision.compute=bf16, certified fp32"),
        ({"optimizer": {"beta2": 0.9}}, "optimizer.beta2=0.9"),
    ],
)
@pytest.mark.usefixtures("path")
def test_another_layout_model_or_precision_is_refused_and_told_from_the_nearest(
    change: dict[str, dict[str, Any]], reason: str, recipe: Recipe
) -> None:
    with pytest.raises(RefusedError) as refused:
        require(changed(recipe, **change), command=COMMAND)
    assert reason in str(refused.value)
    assert str(refused.value).endswith(COMMAND)


@pytest.mark.usefixtures("path")
def test_two_layouts_of_a_recipe_each_keep_their_certificate(recipe: Recipe) -> None:
    other = changed(recipe, parallel={"tensor": 1})
    write(other, evidence())
    require(other, command=COMMAND)
    require(recipe, command=COMMAND)


@pytest.mark.parametrize(
    ("name", "reason"), [("torch", r"torch=\S+, certified 1\.0"), ("mai_source", r"mai_source=\S+, certified 1\.0")]
)
def test_a_certificate_of_other_code_is_refused(
    name: str, reason: str, recipe: Recipe, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = subject.code()
    monkeypatch.setattr(subject, "code", lambda: {**code, name: "1.0"})
    assert write(recipe, evidence()) == path
    with pytest.raises(RefusedError, match=reason):
        require(recipe, command=COMMAND)


@pytest.mark.usefixtures("path")
def test_a_certificate_of_a_wrong_layout_is_refused(recipe: Recipe) -> None:
    write(recipe, evidence(gradient=3.0))
    with pytest.raises(RefusedError, match="does not compute what one rank computes"):
        require(recipe, command=COMMAND)


@pytest.mark.parametrize(
    ("name", "value"), [("passed", False), ("format_version", 2), ("digest", "0" * 64), ("code", {}), ("certified", {})]
)
def test_a_certificate_that_was_changed_is_refused(name: str, value: object, path: Path, recipe: Recipe) -> None:
    path.write_text(plain_json({**json.loads(path.read_text()), name: value}))
    with pytest.raises(RefusedError, match="was changed after it was written"):
        require(recipe, command=COMMAND)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"passed": true'])
def test_what_is_no_certificate_is_refused(text: str, path: Path, recipe: Recipe) -> None:
    path.write_text(text)
    with pytest.raises(RefusedError, match="is damaged"):
        require(recipe, command=COMMAND)


def test_where_there_is_none_it_says_so(path: Path, recipe: Recipe) -> None:
    path.unlink()
    with pytest.raises(RefusedError, match="there is none"):
        require(recipe, command=COMMAND)
    path.mkdir()
    with pytest.raises(RefusedError, match="there is none"):
        require(recipe, command=COMMAND)


def test_a_change_of_the_users_own_file_needs_a_new_certificate(path: Path, recipe: Recipe) -> None:
    own = path.parent / "own.py"
    own.write_text("def loss(token_losses_BS, batch):\n    return token_losses_BS.sum()\n")
    named = changed(recipe, objective={"loss": f"{own}:loss"})
    write(named, evidence())
    require(named, command=COMMAND)
    own.write_text("def loss(token_losses_BS, batch):\n    return 2 * token_losses_BS.sum()\n")
    with pytest.raises(RefusedError, match=r"objective\.loss=loss of"):
        require(named, command=COMMAND)


def test_the_same_file_in_another_folder_needs_none(path: Path, recipe: Recipe) -> None:
    for folder in ("one", "two"):
        (path.parent / folder).mkdir()
        (path.parent / folder / "own.py").write_text("def loss(token_losses_BS, batch): ...")
    here, there = (
        changed(recipe, objective={"loss": f"{path.parent}/{folder}/own.py:loss"}) for folder in ("one", "two")
    )
    write(here, evidence())
    require(there, command=COMMAND)


def test_versions_of_another_build_of_the_same_source_are_the_same() -> None:
    assert "+" not in subject.code()["torch"]


def test_a_certificate_says_which_degrees_were_tried_and_what_is_unproven(recipe: Recipe) -> None:
    large = changed(recipe, parallel={"tensor": 2, "pipeline": 2, "data": 512, "micro_batch_sequences": 1})
    value = certified(large, evidence())
    assert value["degrees"]["data"] == {"original": 512, "shrunk": 2}
    assert any("data 512 (tried: 2)" in sentence for sentence in value["unproven"])
    assert value["compared"]["fp32"]["gradient"]["worst"]["used"] == pytest.approx(0.5)
    assert value["compared"]["fp32"]["gradient"]["tolerance"]


def test_groups_of_the_optimizer_are_unproven(recipe: Recipe) -> None:
    grouped = changed(recipe, optimizer={"groups": ("embedding.*:frozen",)})
    assert [sentence for sentence in certified(grouped, evidence())["unproven"] if "optimizer.groups" in sentence]
    assert not [sentence for sentence in certified(recipe, evidence())["unproven"] if "optimizer.groups" in sentence]


def test_one_more_rounding_of_a_gradient_is_unproven_where_all_is_rounded(recipe: Recipe) -> None:
    in_bf16 = changed(recipe, precision={"compute": "bf16"})
    for one, said in ((recipe, 0), (in_bf16, 1)):
        sentences = certified(one, evidence())["unproven"]
        assert len([sentence for sentence in sentences if "one more rounding of a gradient" in sentence]) == said


def test_a_failed_one_says_what_is_wrong_and_is_marked(recipe: Recipe) -> None:
    value = certified(recipe, evidence(gradient=3.0))
    assert value["passed"] is False
    assert [(entry["kind"], entry["name"]) for entry in value["wrong"]["findings"]] == [
        ("gradient", "output_layer.weight")
    ]


def test_the_first_sentence_names_what_differs_by_how_much_and_on_which_ranks() -> None:
    first, *_ = certificate_text.wrong_lines(evidence(gradient=3.0))
    assert first.startswith("fp32, step 1: the gradient of output_layer.weight differs by 3e-06 from 0.5")
    assert "allowed: 1e-06" in first
    assert first.endswith("wrong on ranks 2, 3; ranks 0, 1 hold the same and are right")


def test_a_parameter_that_one_rank_does_not_have_is_said_to_be_one() -> None:
    stranger = replace(finding(used=3.0, kind="weight"), difference=math.nan, one_rank=math.nan)
    told = Evidence(comparisons={"fp32": Comparison([stranger])}, seconds={}, draw=0)
    assert "held by ranks 2, 3, and one rank has no such parameter" in certificate_text.wrong_lines(told)[0]


def test_a_wrong_loss_comes_with_the_first_parameter_that_is_wrong_too() -> None:
    loss, parameter, *_ = certificate_text.wrong_lines(evidence(gradient=3.0, loss=2.0))
    assert "the loss differs" in loss
    assert parameter.startswith("first parameter on the way forward: the gradient of output_layer.weight")
