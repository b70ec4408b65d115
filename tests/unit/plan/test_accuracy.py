"""docs/plan_accuracy.md quotes the committed result as it is, and the committed result is what the planner predicts."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ground_truth.rows import HERE
from benchmarks.plan_accuracy import bands, lines, predictions, time_goals
from mai.plan.time.trust import FILE, Band

ROOT = Path(__file__).parents[3]
RESULT = ROOT / "benchmarks" / "results" / "plan_accuracy_2026-11-26.json"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_docs_quote_every_line_of_the_result(committed: dict[str, Any]) -> None:
    document = (ROOT / "docs" / "plan_accuracy.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in lines(committed) if line and line not in document]
    assert not missing


def test_step_times_and_bands_are_what_the_planner_predicts_now(committed: dict[str, Any]) -> None:
    found, _ = predictions(HERE / "measured.csv")
    for (goal, figures), one in zip(time_goals(found), committed["time"], strict=True):
        assert goal.rows == one["of"]
        assert figures["rows"] == one["rows"]
        assert figures["mean_absolute"] == pytest.approx(one["mean_absolute"], abs=5e-5)
    shipped = {kind: Band(**band) for kind, band in json.loads(FILE.read_text(encoding="utf-8")).items()}
    assert bands(found) == shipped
