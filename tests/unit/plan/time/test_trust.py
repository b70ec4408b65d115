import json
from dataclasses import replace
from pathlib import Path

import pytest

from mai.hardware.cluster import load_cluster
from mai.plan.setting.of_recipe import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.plan.time.trust import band, kind
from mai.recipe import Recipe
from recipes.pretrain.mai1_500b import mai1_500b
from recipes.pretrain.mai1_500b_moe import mai1_500b_moe


def setting(recipe: Recipe, software: str = "mai") -> Setting:
    return setting_of(recipe, load_cluster("h100"), replace(load_software("mai"), name=software))


def test_settings_are_off_alike_by_software_precision_and_experts() -> None:
    assert kind(setting(mai1_500b())) == "mai/bf16/dense/h100"
    assert kind(setting(mai1_500b_moe(), "other")) == "other/bf16/experts/h100"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trust.json"
    path.write_text(json.dumps({"other/bf16/dense/h100": {"rows": 40, "low": 0.8, "high": 1.25, "of": "theirs"}}))
    return path


def test_predictions_that_were_low_say_that_a_run_may_take_longer(file: Path) -> None:
    found = band(setting(mai1_500b(), "other"), file)
    assert found is not None
    assert found.rows == 40
    assert found.seconds(10.0) == pytest.approx((8.0, 12.5))


def test_what_was_not_measured_has_no_band(file: Path, tmp_path: Path) -> None:
    assert band(setting(mai1_500b_moe(), "other"), file) is None
    assert band(setting(mai1_500b(), "other"), tmp_path / "none.json") is None
