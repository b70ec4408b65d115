"""Every field of a recipe says what it means, on the command line and in the reference."""

import json

import pytest
from click.testing import CliRunner

from mai.cli import cli
from mai.recipe.field_words import reference, words_of
from mai.recipe.knobs import KNOBS
from tests.house.sources import ROOT


def test_every_field_says_what_it_means() -> None:
    assert [path for (path, _), knob in KNOBS.items() if not words_of(knob)] == []


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference(), "make reference"


def test_the_reference_has_every_field() -> None:
    rows = [line.split("`")[1] for line in reference().splitlines() if line.startswith("| `")]
    assert set(rows) == {path for path, _ in KNOBS}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["tiny", "--explain", "model.window"],
            ["model.window=none", "Last positions that a query", "at least 1"],
        ),
        (["tiny", "model.window=8", "--explain", "model.window"], ["model.window=8", "default none"]),
        (["tiny", "--explain", "model.attention.kind"], ["one of grouped_query, latent"]),
        (["tiny", "--explain", "train.steps"], ["has no default"]),
    ],
    ids=" ".join,
)
def test_a_field_is_explained(words: list[str], told: list[str]) -> None:
    result = CliRunner().invoke(cli, ["check", *words])
    assert result.exit_code == 0, result.output
    for part in told:
        assert part in result.output


def test_a_field_is_explained_to_machines() -> None:
    result = CliRunner().invoke(cli, ["check", "tiny", "--explain", "optimizer.beta1", "--json"])
    said = json.loads(result.stdout)
    assert said["field"] == "optimizer.beta1"
    assert said["value"] == said["default"] == 0.9
    assert said["takes"] == "a finite number, at least 0 and below 1"


def test_a_field_that_is_none_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["check", "tiny", "--explain", "optimizer.lr"])
    assert result.exit_code != 0
    assert "did you mean optimizer.learning_rate?" in result.output
