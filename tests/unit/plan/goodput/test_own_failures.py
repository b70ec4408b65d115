"""A run folder of ours as a list of failures: what was measured, what is assumed, and who may not be counted."""

import json
from math import exp
from pathlib import Path

import pytest

from mai.cli_plan import record_of
from mai.errors import ExitCode, PlanError
from mai.plan.goodput.failures import load_failures
from mai.plan.goodput.own_failures import own_failures
from mai.plan.goodput.poisson import poisson_interval
from mai.plan.goodput.run_record import measured
from tests.unit.plan.goodput.recorder import (
    RELAUNCH_SECONDS,
    SAVE_SECONDS,
    START_SECONDS,
    STEP_SECONDS,
    Recorder,
)

HOUR = 3600.0


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "run")


def test_the_rate_is_that_of_the_gpu_hours_until_the_last_step(recorder: Recorder) -> None:
    recorder.live(100, ranks=16, code=ExitCode.HANG)
    recorder.live(100, ranks=8)
    run = recorder.measured
    first = START_SECONDS + 100 * STEP_SECONDS + 10 * SAVE_SECONDS
    assert run.gpu_hours == pytest.approx((16 * first + 8 * (run.wall_seconds - first)) / HOUR)
    assert own_failures(run).gpu_hours_between == pytest.approx(run.gpu_hours / 2)


def test_causes_are_exit_codes_and_one_of_them_breaks_a_node(recorder: Recorder) -> None:
    for code in (ExitCode.HANG, ExitCode.NODE_BAD, ExitCode.HANG, None, ExitCode.COMPLETE):
        recorder.live(20, code=code)
    causes = own_failures(recorder.measured).causes
    assert {name: (cause.count, cause.breaks) for name, cause in causes.items()} == {
        "hang": (2, "nothing"),
        "node_bad": (1, "node"),
        "peer_lost": (1, "nothing"),
    }


@pytest.mark.parametrize(
    "code", [ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.PREEMPTED, ExitCode.PREEMPTED_UNSAVED], ids=str
)
def test_an_end_that_somebody_asked_for_is_no_interruption(recorder: Recorder, code: ExitCode) -> None:
    recorder.live(20, code=code)
    assert recorder.measured.interruptions == []


def test_a_run_that_still_runs_is_not_interrupted_yet(recorder: Recorder) -> None:
    recorder.live(20)
    recorder.live(20)
    with recorder.folder.lease(recorder.attempt):
        assert len(recorder.measured.interruptions) == 1
    assert len(recorder.measured.interruptions) == 2


def test_restart_and_stall_are_the_measured_means(recorder: Recorder) -> None:
    # The second one hangs: it says so long after its last step, which is no save.
    for steps, code in ((20, None), (40, ExitCode.HANG), (0, None), (60, None)):
        recorder.live(steps, code=code)
    found = own_failures(recorder.measured)
    failed_try = START_SECONDS + STEP_SECONDS / 2 + RELAUNCH_SECONDS
    relaunch = STEP_SECONDS / 2 + RELAUNCH_SECONDS
    assert found.restart.detect_seconds == pytest.approx(relaunch)
    assert found.restart.start_processes_seconds == pytest.approx(START_SECONDS + failed_try / 2)
    mean = START_SECONDS + failed_try / 2 + relaunch
    assert sum(found.restart.steps(is_near=False, replaces=True).values()) == pytest.approx(mean)
    assert found.checkpoint.far_stall_seconds == pytest.approx(SAVE_SECONDS)


def test_what_the_folder_does_not_know_is_an_assumption_that_says_so(recorder: Recorder) -> None:
    recorder.live(5)
    found, like = own_failures(recorder.measured), load_failures("llama3")
    assert (found.repair, found.near_share, found.slow_nodes) == (like.repair, 0, None)
    # It never saved and never started again.
    assert (found.checkpoint, found.restart) == (like.checkpoint, like.restart)
    assumed = ["repair.hours", "repair.rack_nodes", "slow_nodes", "checkpoint.far_stall_seconds"]
    assumed += [f"restart.{step}_seconds" for step in ("detect", "replace", "load_far", "first_step")]
    for key in assumed:
        assert found.sources[key].startswith("assumption")


def test_few_interruptions_say_how_little_they_say(recorder: Recorder) -> None:
    for _ in range(12):
        recorder.live(20)
    assert own_failures(recorder.measured).describes.endswith(
        "12 interruptions in 16.6 minutes on 16 GPUs, which leaves open one in 51.176 s to one in 2.39 minutes there, "
        "with 90% confidence"
    )


@pytest.mark.parametrize("number", [0, 1, 3, 12, 419])
def test_an_interval_ends_where_as_many_come_with_one_chance_in_twenty(number: int) -> None:
    low, high = poisson_interval(number, 0.9)

    def chance_of_most(most: int, mean: float) -> float:
        terms = [exp(-mean)]
        for each in range(1, most + 1):
            terms.append(terms[-1] * mean / each)
        return sum(terms)

    assert chance_of_most(number, high) == pytest.approx(0.05)
    if number:
        assert 1 - chance_of_most(number - 1, low) == pytest.approx(0.05)
    assert low <= number < high


def test_the_interval_is_that_of_garwoods_table() -> None:
    # Garwood 1936, at 95%: 0 to 3.69 of none, 0.0253 to 5.57 of one, 4.80 to 18.39 of ten.
    assert poisson_interval(0, 0.95) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert poisson_interval(1, 0.95) == pytest.approx((0.0253, 5.572), abs=1e-3)
    assert poisson_interval(10, 0.95) == pytest.approx((4.795, 18.390), abs=1e-3)


def test_a_run_without_interruption_says_what_it_shows_and_the_way_out(recorder: Recorder) -> None:
    recorder.live(100, code=ExitCode.COMPLETE)
    run = recorder.measured
    with pytest.raises(PlanError, match=r"no interruption in 1\.133 GPU hours") as caught:
        own_failures(run)
    assert f"one comes in {run.gpu_hours / 2.9957:.4g} or more" in str(caught.value)
    assert "byterobust, llama3, meta_rsc1, meta_rsc2" in str(caught.value)


def test_a_torn_last_line_costs_nothing(recorder: Recorder) -> None:
    recorder.live(20)
    before = recorder.measured
    for file in (recorder.folder.metrics, recorder.folder.path / "events-1.jsonl"):
        with file.open("a") as lines:
            lines.write('{"time": "2026-01-01T')
    assert recorder.measured == before


@pytest.mark.parametrize(
    ("name", "line", "rule"),
    [
        ("metrics.jsonl", {"step": 21, "attempt": 1, "time": "2026-01-01"}, "step_seconds=None: must be a number"),
        ("metrics.jsonl", {"step": "x"}, "step=x: must be a whole number"),
        ("metrics.jsonl", {"step": 21, "attempt": 1, "step_seconds": 1, "time": "noon"}, "time=noon: must be a time"),
        ("metrics.jsonl", {"step": 21, "attempt": 7, "step_seconds": 1, "time": "2026-01-01"}, "steps of attempt 7"),
        ("events-1.jsonl", {"time": "2026-01-01T00:00:00+00:00"}, "kind=None: must be text"),
        ("events-1.jsonl", {"kind": "checkpoint committed", "time": "2026-01-01"}, "step=None: must be"),
        ("terminal-1.json", {"code": 99}, "code=99: no exit code of mai"),
        ("terminal-1.json", {"code": []}, r"code=\[\]: no exit code of mai"),
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_named(
    recorder: Recorder, name: str, line: dict[str, object], rule: str
) -> None:
    recorder.live(20)
    if name.startswith("terminal"):
        keys = ("name", "culprit", "phase", "step", "last_committed_step", "evidence", "suggestion")
        line = dict.fromkeys(keys) | line
    with (recorder.folder.path / name).open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(PlanError, match=f"{recorder.folder.path}: {name}.*{rule}"):
        measured(record_of(recorder.folder.path))


def test_a_folder_without_a_start_is_no_record(recorder: Recorder) -> None:
    recorder.live(20)
    (recorder.folder.path / "events-1.jsonl").write_text("")
    with pytest.raises(PlanError, match=r"events-1\.jsonl: no line of kind started"):
        measured(record_of(recorder.folder.path))
