"""Lists of failures: those that ship say what was published, and a wrong one names all that is wrong."""

from pathlib import Path

import pytest

import mai.plan
from mai.errors import PlanError
from mai.plan.goodput.failures import failure_names, load_failures

HOUR = 3600.0


def test_the_published_ones_ship() -> None:
    assert failure_names() == ["byterobust", "llama3", "meta_rsc1", "meta_rsc2"]


@pytest.mark.parametrize("name", failure_names())
def test_every_number_says_where_it_is_from(name: str) -> None:
    failures = load_failures(name)
    needed = ["gpu_hours_between", "near_share", "repair.hours", "restart.detect_seconds", "slow_nodes.slowdown"]
    needed += [f"causes.{cause}.count" for cause in failures.causes]
    assert set(needed) <= failures.sources.keys()
    assert failures.describes


def test_llama_3_fails_every_3_hours_and_a_half_on_15000_gpus() -> None:
    llama = load_failures("llama3")
    assert llama.mean_seconds(15_000) / HOUR == pytest.approx(3.38, abs=0.01)
    assert llama.mean_seconds(16_384) / HOUR == pytest.approx(3.09, abs=0.01)


def test_llama_3s_causes_are_those_of_its_table() -> None:
    llama = load_failures("llama3")
    assert (len(llama.causes), llama.total) == (18, 419)
    assert llama.share("node") * 419 == pytest.approx(289)
    corruption = llama.causes["silent_data_corruption"]
    days = llama.mean_seconds(15_000) * llama.total / corruption.count / HOUR / 24
    assert days == pytest.approx(9.8, abs=0.1)


@pytest.mark.parametrize(("gpus", "hours"), [(16_384, 1.80), (131_072, 0.225)])
def test_the_projection_is_that_of_meta(gpus: int, hours: float) -> None:
    # arXiv 2410.21680, figure 7: 6.50 failures of 1,000 node-days.
    assert load_failures("meta_rsc1").mean_seconds(gpus) / HOUR == pytest.approx(hours, rel=0.003)


def test_a_step_of_a_restart_is_left_out_where_it_is_not_taken() -> None:
    restart = load_failures("llama3").restart
    assert sum(restart.steps(is_near=True, replaces=True).values()) == 300
    assert sum(restart.steps(is_near=False, replaces=True).values()) == 340
    assert "replace" not in restart.steps(is_near=True, replaces=False)
    assert not {"detect", "diagnose"} & restart.steps(is_near=True, replaces=True, is_planned=True).keys()


def test_mistakes_of_every_kind_are_named_at_once(tmp_path: Path) -> None:
    file = own(
        tmp_path,
        ("near_share = { value = 0.75", "near_share = { value = 75"),
        ("slowdown = { value = 1.1", "slowdown = { value = 0.9"),
        ('breaks = "rack"', 'breaks = "switch"'),
        ("rack_nodes = { value = 2", "rack_nodes = { value = 0"),
        ("gpu_hours_between = { value = 50677", 'gpu_hours_between = { value = "often"'),
    )
    with pytest.raises(PlanError) as error:
        load_failures(file)
    assert sorted(violation.removeprefix(f"{file}: ") for violation in error.value.violations) == [
        "causes.network_switch_or_cable.breaks=switch: must be one of nothing, node, rack",
        "gpu_hours_between=often: must be a number",
        "near_share=75: must be 1 or below",
        "repair.rack_nodes=0: must be above 0",
        "slow_nodes.slowdown=0.9: must be 1 or above",
    ]


def own(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """Llama 3's file with these changes."""
    text = (Path(mai.plan.__file__).parent / "failures" / "llama3.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "ours.toml"
    file.write_text(text)
    return file


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    assert load_failures(own(tmp_path, ("value = 50677", "value = 40000"))).gpu_hours_between == 40_000


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    file = own(tmp_path, ("slowdown =", "slow_down ="), ("value = 50677", "value = -1"), ("count = ", "cuont = "))
    with pytest.raises(PlanError) as caught:
        load_failures(file)
    violations = caught.value.violations
    assert f"{file}: gpu_hours_between=-1: must be above 0" in violations
    assert f"{file}: slow_nodes.slow_down: no such key; did you mean slowdown?" in violations
    assert f"{file}: causes.ssd.cuont: no such key; did you mean count?" in violations


def test_rules_between_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="breaks=nod: must be one of nothing, node, rack"):
        load_failures(own(tmp_path, ('breaks = "node"', 'breaks = "nod"')))
    with pytest.raises(PlanError, match=r"near_share=0\.95: must not be above 0\.902"):
        load_failures(own(tmp_path, ("value = 0.75", "value = 0.95")))


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(PlanError, match=r"llama4: no such failures; did you mean llama3\?.*path/to/failures.toml"):
        load_failures("llama4")
