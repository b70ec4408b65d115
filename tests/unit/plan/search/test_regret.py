"""Regret is measured time of the layout that the planner predicts to be fastest, over that of the fastest."""

import csv
from pathlib import Path

import pytest

from benchmarks.ground_truth.rows import HERE, Row, measured_seconds, read
from benchmarks.ground_truth.settings import setting_of
from benchmarks.plan_regret import lines, regrets
from mai.plan.time.step_time import step_time

GROUP = {"model": "nanotron-8.86B", "gpus": "64"}


@pytest.fixture
def rows() -> list[Row]:
    return [row for row in read(HERE / "measured.csv") if all(row[name] == value for name, value in GROUP.items())][:6]


def written(file: Path, rows: list[Row]) -> Path:
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def with_seconds(row: Row, seconds: float) -> Row:
    return row | {"step_s": str(seconds), "tokens_per_s_per_gpu": ""}


def test_a_ranking_that_is_right_has_no_regret(rows: list[Row], tmp_path: Path) -> None:
    predicted = [with_seconds(row, step_time(setting_of(row)).seconds) for row in rows]
    (found,) = regrets(written(tmp_path / "rows.csv", predicted))
    assert (found.layouts, found.regret, found.regret_of_five) == (6, 0.0, 0.0)


def test_a_ranking_that_is_upside_down_regrets_the_slowest(rows: list[Row], tmp_path: Path) -> None:
    order = sorted(rows, key=lambda row: -step_time(setting_of(row)).seconds)
    upside_down = [with_seconds(row, 1.0 + place) for place, row in enumerate(order)]
    (found,) = regrets(written(tmp_path / "rows.csv", upside_down))
    assert (found.regret, found.regret_of_five, found.typical) == (5.0, 1.0, 2.5)


def test_repeats_of_a_layout_count_by_their_median(rows: list[Row], tmp_path: Path) -> None:
    measured = {row["id"]: measured_seconds(row, setting_of(row).architecture) for row in rows}
    repeated = [*rows, *[with_seconds(rows[0], measured[rows[0]["id"]] * times) for times in (1, 1000)]]
    assert regrets(written(tmp_path / "rows.csv", repeated)) == regrets(written(tmp_path / "once.csv", rows))


def test_few_layouts_are_no_group(rows: list[Row], tmp_path: Path) -> None:
    assert regrets(written(tmp_path / "rows.csv", rows[:3])) == []


def test_a_line_a_source_and_one_node_is_a_source_of_its_own(rows: list[Row], tmp_path: Path) -> None:
    of_vtrain = [row for row in read() if row["source"].startswith("vTrain")]
    several = [row for row in of_vtrain if int(row["gpus"]) > 8]
    found = regrets(written(tmp_path / "rows.csv", [*rows, *several, *of_vtrain[-200:]]))
    sources = [line.split(" | ")[0].removeprefix("| ") for line in list(lines(found))[2:]]
    vtrain = "vTrain validation set (KAIST)"
    assert sources == [rows[0]["source"], f"{vtrain}, one node", f"{vtrain}, several nodes"]
    assert all(one.layouts >= 4 and one.regret >= one.regret_of_five >= 0 for one in found)
