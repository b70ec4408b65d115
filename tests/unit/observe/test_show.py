"""`mai show`: tells what a run folder holds, whatever state it is in."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mai.errors import ExitCode, UsageError
from mai.observe.show import render, summary
from mai.run_folder import RunFolder, Terminal, plain_json
from tests.unit.observe.samples import step_record


def make_run(path: Path, *, steps: int = 30) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.write_json(
        "run.json",
        {
            "run_id": "a1b2c3",
            "created": "2026-01-31T12:00:00.000+00:00",
            "recipe_fingerprint": "f" * 64,
            "versions": {"mai": "0.1.0", "torch": "2.13.0"},
            "commit": "0123456789abcdef+changes",
            "layout": {"tensor": 2, "pipeline": 1, "data": 4},
            "num_parameters": 11_000_000,
        },
    )
    folder.write_json("recipe.json", {"name": "tiny", "model": {"num_layers": 4, "hidden_size": 64}})
    folder.write_json("status.json", {"phase": "training", "step": steps, "steps": 100, "last_committed_step": 20})
    attempt = folder.begin_attempt()
    folder.event(attempt, "started", ranks=8)
    with folder.metrics.open("a") as file:
        for step in range(1, steps + 1):
            evaluated = {"held_out_bits_per_byte": 5.0 / step} if step % 10 == 0 else {}
            file.write(step_record(step, **evaluated).to_json_line())
    (folder.checkpoints / "step-0000000020").mkdir()
    (folder.checkpoints / ".tmp-30-1").mkdir()
    return folder


def end(folder: RunFolder, attempt: int, *, evidence: str = "no heartbeat for 60 s") -> None:
    folder.write_terminal(
        attempt,
        Terminal(
            code=214,
            name="HANG",
            culprit={"rank": 3, "host": "node-1", "pid": 42},
            phase="training",
            step=30,
            last_committed_step=20,
            evidence=evidence,
            suggestion="look at the stacks",
        ),
    )


def page(folder: RunFolder, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(render(summary(folder.path)))
    return capture.get()


def test_a_crashed_run_says_what_ran_where_it_stands_and_that_it_died(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    text = page(folder)
    for part in (
        "tiny",
        "died",
        "11.0 M parameters",
        "4 layers, 64 wide",
        "tensor 2, pipeline 1, data 4",
        "torch 2.13.0",
        "commit 0123456789ab with changes",
        "step 30 of 100",
        "newest checkpoint at step 20, 1 kept",
        "without a word",
        "started ranks=8",
        "training loss, nats per token",
        "held-out text, bits per byte",
    ):
        assert part in text, part
    assert summary(folder.path)["state"] == "died"


def test_parts_of_the_page_stand_apart(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    lines = [line.strip() for line in page(folder).splitlines()]
    assert lines[0] == lines[-1] == ""
    assert lines[1].startswith("tiny")
    titles = ("what happened", "training loss, nats per token", "held-out text, bits per byte")
    for title in titles:
        assert lines[lines.index(title) - 1] == "", f"no line before {title}"
    for curve in titles[1:]:
        assert lines[lines.index(curve) + 1] == "", f"no line between {curve} and its curve"


def test_a_long_event_is_folded_and_not_cut(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    folder.event(1, "fault", words="x" * 150)
    assert page(folder).count("x") >= 150


def test_one_point_makes_no_curve(tmp_path: Path) -> None:
    assert "training loss" not in page(make_run(tmp_path / "try", steps=1))


def test_an_ended_run_names_the_culprit_and_the_way_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    end(folder, 1)
    text = page(folder)
    for part in ("HANG (214) at step 30", "rank 3, host node-1, pid 42", "no heartbeat for 60 s", "look at the stacks"):
        assert part in text


def test_a_traceback_keeps_its_lines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    end(folder, 1, evidence="Traceback:\n  File mine.py\nValueError: \x1b[2J")
    lines = [line.strip() for line in page(folder).splitlines()]
    first = next(number for number, line in enumerate(lines) if "Traceback:" in line)
    assert lines[first + 1 : first + 3] == ["File mine.py", "ValueError: \ufffd[2J"]


def test_a_resumed_run_is_running_while_its_owner_lives(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    end(folder, 1)
    with folder.lease(2):
        folder.event(folder.begin_attempt(), "resumed", step=20)
        found = summary(folder.path)
        assert found["state"] == "running"
        assert f"pid {os.getpid()} on" in page(folder)
    assert [event["kind"] for event in found["events"]] == ["started", "resumed"]
    assert [attempt["terminal"] is None for attempt in found["attempts"]] == [False, True]


def test_the_curve_holds_only_steps_that_the_run_stands_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    with folder.metrics.open("a") as file:
        file.write(step_record(21, loss=7.0, attempt=2).to_json_line() + '{"step": 22, "lo')
    assert summary(folder.path)["curves"]["loss"][-2:] == [(20.0, 0.2), (21.0, 7.0)]


def test_a_long_run_is_thinned_to_a_readable_curve(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try", steps=5_000)
    points = summary(folder.path)["curves"]["loss"]
    assert len(points) == 1_000
    assert points[-1][0] == 5_000


def test_json_is_strict_even_when_the_loss_is_not_a_number(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    with folder.metrics.open("a") as file:
        file.write(step_record(31, loss=float("nan"), kept=False).to_json_line())
    text = plain_json(summary(folder.path))
    assert json.loads(text, parse_constant=pytest.fail)["latest"]["loss"] == "NaN"
    assert "loss NaN" in page(folder)


def test_damaged_files_cost_what_they_held_and_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "try")
    for name in ("run.json", "terminal-1.json"):
        (folder.path / name).write_text('{"half')
    (folder.path / "status.json").write_text('{"step": "\x1b[2J", "heartbeat": 3, "tokens": [1]}')
    (folder.path / "recipe.json").write_text('{"name": [3], "model": "x"}')
    folder.metrics.write_bytes(b"\xff\x00 not a line of ours")
    found = summary(folder.path)
    assert [problem.split(" is damaged")[0].rpartition("/")[2] for problem in found["problems"]] == [
        "terminal-1.json",
        "run.json",
        "status.json",
    ]
    text = page(folder)
    assert "\x1b" not in text
    assert "run.json is damaged" in " ".join(text.split())


@pytest.mark.parametrize("status", [{"step": None}, {"step": "\x1b[2J\ud800"}, {"steps": {}, "step": [1]}])
def test_values_of_the_wrong_kind_are_shown_as_they_are(tmp_path: Path, status: dict[str, object]) -> None:
    folder = make_run(tmp_path / "try")
    folder.write_json("status.json", status)
    assert "\x1b" not in page(folder).encode().decode()


def test_a_run_before_its_first_step_is_shown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "try")
    folder.create()
    folder.write_json("recipe.json", {"name": "tiny"})
    text = page(folder)
    assert "never started" in text
    assert "before the first step" in text


def test_what_is_no_run_folder_is_refused_with_runs_nearby(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "one", steps=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path, what in (("runs/on", "does not exist"), ("empty", "holds no run"), ("file", "is not a folder")):
        with pytest.raises(UsageError, match=what) as refused:
            summary(tmp_path / path)
        assert refused.value.code == ExitCode.USAGE
    with pytest.raises(UsageError, match=r"runs nearby: .*runs/one"):
        summary(tmp_path / "runs" / "on")
    with pytest.raises(UsageError, match="mai train"):
        summary(tmp_path / "empty")


def test_showing_needs_neither_torch_nor_wandb() -> None:
    program = "import sys, mai.run_folder, mai.observe.show; print({'torch', 'wandb', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
