"""The sinks: what they write is what was measured, and what goes wrong with them stays with them."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from mai.errors import StorageError
from mai.observe import observer as observer_module
from mai.observe.observer import Observer
from mai.observe.panel import draw
from mai.observe.progress import Progress, Shape
from mai.observe.record import RunEnded
from mai.observe.sinks.jsonl import JsonlSink
from mai.observe.sinks.terminal import LineSink, LiveSink, terminal_sink
from mai.observe.sinks.wandb import WandbSink
from mai.run_folder import RunFolder
from tests.house.sources import ROOT
from tests.unit.observe.samples import run_started, step_record

COMPLETE = RunEnded(code=0, name="COMPLETE", step=5, message="all steps done")

TRAINS_TO_STDOUT = """
import os, sys
from contextlib import closing
from pathlib import Path
from mai.log import set_up
from mai.observe import observer as observer_module
from mai.observe.observer import Observer
from mai.observe.sinks.jsonl import JsonlSink
from mai.observe.sinks.terminal import terminal_sink
from mai.run_folder import RunFolder
from tests.unit.observe.samples import run_started, step_record
set_up(0)
folder = RunFolder(Path(sys.argv[1]))
if sys.argv[2] == "closed":
    sys.stdout.close()
with closing(Observer([JsonlSink(folder), terminal_sink(sys.stdout)])) as observer:
    observer.run_started(run_started(folder.path, steps=2000))
    for step in range(1, 2001):
        observer.record(step_record(step, held_out_bits_per_byte=2.5))
sys.exit(86)
"""


PRINTS_BESIDE_STEP_LINES = """
import sys
from contextlib import closing
from pathlib import Path
from mai.observe.observer import Observer
from mai.observe.sinks.terminal import terminal_sink
from tests.unit.observe.samples import run_started, step_record
sys.setswitchinterval(1e-6)
stdout = sys.stdout
with closing(Observer([terminal_sink(sys.stdout)])) as observer:
    observer.run_started(run_started(Path("anywhere"), steps=200))
    for step in range(1, 201):
        observer.record(step_record(step, held_out_bits_per_byte=2.5))
        print("the", "script", "prints", step)
    print("no end of line", end="")
assert sys.stdout is stdout
print(" yet", end="", flush=True)
"""


PRINTS_BESIDE_WANDB = """
import sys
from pathlib import Path
from mai.observe.record import RunEnded
from mai.observe.sinks.wandb import WandbSink
from mai.run_folder import RunFolder
from tests.unit.observe.samples import run_started
folder = RunFolder(Path(sys.argv[1]))
sink = WandbSink(folder)
sink.run_started(run_started(folder.path))
print("a secret", flush=True)
sink.run_ended(RunEnded(code=0, name="COMPLETE", step=5, message="all steps done"))
sink.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "try")
    run_folder.create()
    return run_folder


def watch(sink: JsonlSink | WandbSink | LineSink | LiveSink, folder: RunFolder, *, steps: int) -> None:
    with contextlib.closing(Observer([sink])) as observer:
        observer.run_started(run_started(folder.path, steps=steps))
        for step in range(1, steps + 1):
            evaluated = {"held_out_loss": 1.5, "held_out_bits_per_byte": 2.25} if step == steps else {}
            observer.record(step_record(step, **evaluated))
        observer.event("checkpoint committed", step=steps)
        observer.run_ended(COMPLETE)


def read_to_the_end(terminal: int, chunks: list[bytes]) -> None:
    """A terminal's reading side ends with an error when its last writer has gone."""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 4096):
            chunks.append(chunk)
    os.close(terminal)


def test_metrics_read_back_as_they_were_measured(folder: RunFolder) -> None:
    watch(JsonlSink(folder), folder, steps=5)
    records = list(folder.read_metrics())
    assert [record["loss"] for record in records] == [4.0, 2.0, 4.0 / 3, 1.0, 0.8]
    assert records[-1]["held_out_bits_per_byte"] == 2.25
    assert records[0]["held_out_bits_per_byte"] is None
    assert folder.metrics.stat().st_mode & 0o777 & ~0o640 == 0


def test_a_loss_that_is_no_number_is_still_strict_json(folder: RunFolder) -> None:
    line = step_record(1, loss=float("nan"), gradient_norm=float("inf"), kept=False).to_json_line()
    value = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (value["loss"], value["gradient_norm"], value["kept"]) == ("NaN", "Infinity", False)


def test_lines_that_a_full_disk_refused_are_written_when_there_is_room(folder: RunFolder) -> None:
    folder.metrics.symlink_to("/dev/full")
    sink = JsonlSink(folder)
    for step in (1, 2):
        with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
            sink.record(step_record(step))
    os.close(sink._descriptor or -1)
    sink._descriptor = None
    folder.metrics.unlink()
    sink.record(step_record(3))
    sink.close()
    assert [record["step"] for record in folder.read_metrics()] == [1, 2, 3]


def test_wandb_keeps_the_run_offline_inside_the_run_folder(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer_module, "_CLOSE_SECONDS", 60.0)
    watch(WandbSink(folder), folder, steps=5)
    (place,) = (folder.path / "wandb").glob("offline-run-*")
    wandb = Path(sys.executable).parent / "wandb"
    shown = subprocess.run([wandb, "leet", "inspect", "--json", place], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [(item["step"], item["loss"]) for item in history] == [(step, 4.0 / step) for step in range(1, 6)]
    assert history[-1]["held_out_bits_per_byte"] == 2.25
    (run,) = [line["run"] for line in lines if line["type"] == "run"]
    assert (run["run_id"], run["display_name"], run["config"]["update"]["train"]) == ("a1b2c3", "try", {"steps": 5})
    assert lines[-1]["exit"]["exit_code"] == 0


FILES_IN_WANDB = """
import sys
from pathlib import Path
from mai.observe.sinks.wandb import WandbSink
from mai.run_folder import RunFolder
from tests.unit.observe.samples import run_started
sink = WandbSink(RunFolder(Path(sys.argv[1])))
sink.run_started(run_started(Path(sys.argv[1])))
run = sink._run
print(run.project, run.name, run.id, run.group, ",".join(run.tags or ()))
sink.close()
"""


@pytest.mark.parametrize(
    ("said", "filed"),
    [
        ({}, "mai try a1b2c3"),
        (
            {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_RUN_ID": "i", "WANDB_RUN_GROUP": "g", "WANDB_TAGS": "a,b"},
            "p n i g a,b",
        ),
    ],
    ids=["the recipe", "the environment"],
)
def test_wandb_files_the_run_where_its_environment_says_before_the_recipe(
    said: dict[str, str], filed: str, folder: RunFolder
) -> None:
    words = [sys.executable, "-c", FILES_IN_WANDB, folder.path]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | said, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == filed.strip()


def test_wandb_that_is_disabled_writes_nothing(folder: RunFolder) -> None:
    words = [sys.executable, "-c", FILES_IN_WANDB, folder.path]
    environment = os.environ | {"WANDB_MODE": "disabled"}
    subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert [path for path in folder.path.rglob("*") if "wandb" in path.name] == []


@pytest.mark.parametrize("buffering", ["", "-u"])
def test_what_a_script_prints_and_what_the_sink_prints_are_whole_lines(buffering: str) -> None:
    words = [sys.executable, *buffering.split(), "-c", PRINTS_BESIDE_STEP_LINES]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    form = r"run tiny .* in anywhere|step \d+/200 .* 2\.5000( left [\w ]+s)?"
    told = [line for line in lines if re.fullmatch(form, line)]
    printed = [f"the script prints {step}" for step in range(1, 201)]
    assert [line for line in lines if line not in told] == [*printed, "no end of line yet"]
    assert len(told) == 201


def test_wandb_keeps_nothing_of_what_the_process_prints(folder: RunFolder) -> None:
    subprocess.run([sys.executable, "-c", PRINTS_BESIDE_WANDB, folder.path], cwd=ROOT, check=True, capture_output=True)
    (place,) = (folder.path / "wandb").glob("offline-run-*")
    kept = [path for path in place.rglob("*") if path.is_file()]
    assert kept
    assert not [path.name for path in kept if b"a secret" in path.read_bytes()]


def test_without_a_terminal_the_run_speaks_in_plain_searchable_lines(folder: RunFolder) -> None:
    stream = io.StringIO()
    sink = terminal_sink(stream)
    assert isinstance(sink, LineSink)
    watch(sink, folder, steps=40)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("run tiny attempt 1 from step 0 to 40, tensor 2, data 2, 4 CPU ranks, in ")
    assert lines[1].startswith(
        "step 1/40 loss 4.0000 gradient_norm 0.5 learning_rate 0.001 tokens_per_second 2048 "
        "model_flops_per_second 1.25e+09 memory_mib 300"
    )
    steps = [int(found[1]) for found in (re.match(r"step (\d+)/40 ", line) for line in lines) if found]
    assert steps == [1, *range(2, 41, 2)]
    assert "held_out_bits_per_byte 2.2500" in lines[-3]
    assert lines[-2:] == ["checkpoint committed step=40", "ended COMPLETE (0) at step 5: all steps done"]


def test_a_stream_that_is_full_fails_once_and_then_takes_everything_in_silence() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        sink = LineSink(stream)
        with pytest.raises(OSError, match="No space left"):
            sink.event("saved", {})
        sink.event("saved", {})


def test_a_plain_line_is_ascii_whatever_the_names_are(folder: RunFolder) -> None:
    stream = io.StringIO()
    sink = LineSink(stream)
    sink.event("saved", {"folder": "caf\u00e9\x1b[2J\nnext"})
    assert stream.getvalue() == "saved folder=caf\\xe9\\ufffd[2J\\ufffdnext\n"


def test_on_a_terminal_the_panel_stays_and_shows_the_last_state(folder: RunFolder) -> None:
    reader, writer = pty.openpty()
    chunks: list[bytes] = []
    terminal = threading.Thread(target=read_to_the_end, args=(reader, chunks))
    terminal.start()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        console = Console(file=stream, force_terminal=True, width=100, _environ={"TERM": "xterm-256color"})
        watch(LiveSink(console), folder, steps=5)
    terminal.join()
    shown = b"".join(chunks).decode()
    last = shown[shown.rindex("tiny") :]
    for part in ("5", "complete (0)", "0.8000", "nats per token", "2.2500", "bits per byte", "1.25", "GFLOP/s"):
        assert part in last
    assert re.search(r"\d\d:\d\d:\d\d.*checkpoint committed step=5", shown), "events go by above it"
    assert shown.endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_fits_every_width(folder: RunFolder, width: int) -> None:
    progress = Progress(run_started(folder.path))
    for step in (1, 2):
        progress.add(step_record(step, utilisation=0.413, kept=step != 2), now=float(step))
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(draw(progress))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    if width >= 100:
        assert "step 2 of 10" in capture.get()
        assert "8 s left" in capture.get()
        assert "41.3 % of peak \u00b7 6 per parameter and token" in capture.get()
        (row,) = [line for line in lines if "step 2 of 10" in line]
        assert row.count("\u2501") == 12, "a fifth of the place that is left"


@pytest.mark.parametrize("how", ["broken", "closed"])
def test_a_stdout_that_nobody_reads_stops_nothing_and_keeps_the_exit_code(folder: RunFolder, how: str) -> None:
    command = [sys.executable, "-c", TRAINS_TO_STDOUT, str(folder.path), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait() == 86, told
    assert len(list(folder.read_metrics())) == 2000
    assert "Traceback" not in told
    assert told.count("sink terminal failed") <= 2


def test_a_long_series_keeps_its_shape_in_few_points() -> None:
    shape = Shape()
    for step in range(100_000):
        shape.add(float(step))
    shape.add(float("nan"))
    means = list(shape)
    assert len(means) <= 256
    assert means == sorted(means)
    assert means[0] == pytest.approx(100_000 / len(means) / 2, rel=0.5)
