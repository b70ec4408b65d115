"""The run folder: what a crash, a rival process or a full disk may not do to it."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mai.errors import (
    CheckpointError,
    EnvironmentMismatchError,
    ExitCode,
    RefusedError,
    RunFolderBusyError,
    StorageError,
)
from mai.run_folder import (
    RunFolder,
    Terminal,
    naming_storage_errors,
    open_for_appending,
    plain_json,
    surviving,
    whole_or_nothing,
)

OWNER = """
import sys, time
from pathlib import Path
from mai.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lease(7):
    print("owned", flush=True)
    time.sleep(60)
"""

OWNER_WITH_CHILDREN = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from mai.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lease(7):
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    started = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(forked.pid, started.pid, flush=True)
    time.sleep(60)
"""

CONTENDER = """
import sys
from pathlib import Path
from mai.errors import MaiError
from mai.run_folder import RunFolder
try:
    with RunFolder(Path(sys.argv[1])).lease(8):
        pass
except MaiError as error:
    print(error)
    sys.exit(error.code)
"""

RACER = """
import sys
from pathlib import Path
from mai.run_folder import RunFolder, Terminal
folder = RunFolder(Path(sys.argv[1]))
input()
attempts = [folder.begin_attempt() for _ in range(20)]
terminal = Terminal(code=1, name=sys.argv[2], culprit=None, phase="", step=0, last_committed_step=None,
                    evidence="", suggestion="")
print(*attempts)
print(*(number for number in range(1, 21) if folder.write_terminal(number, terminal)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "runs" / "try")
    run_folder.create()
    return run_folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir(mode=0o750)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0750", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def start(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def terminal(name: str = "CRASH") -> Terminal:
    return Terminal(
        code=1,
        name=name,
        culprit={"rank": 3, "host": "node-1", "pid": 42},
        phase="training",
        step=12,
        last_committed_step=10,
        evidence="a \x1b[31mred\x1b[0m word",
        suggestion="start it again",
    )


def test_the_folder_is_closed_to_others_and_its_files_to_all_but_the_group(folder: RunFolder) -> None:
    folder.write_json("run.json", {"run_id": "a"})
    folder.event(folder.begin_attempt(), "started")
    for place in (folder.path.parent, folder.path, folder.checkpoints, folder.logs):
        assert stat.S_IMODE(place.stat().st_mode) & ~0o750 == 0
    for name in ("run.json", "events-1.jsonl"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) & ~0o640 == 0


def test_making_the_folder_twice_changes_nothing(folder: RunFolder) -> None:
    folder.write_json("run.json", {"run_id": "a"})
    folder.create()
    assert folder.read_json("run.json") == {"run_id": "a"}


@pytest.mark.parametrize("deep", [False, True], ids=["beside", "below folders still to be made"])
def test_a_place_where_everybody_may_write_is_refused(tmp_path: Path, deep: bool) -> None:  # noqa: FBT001
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(RefusedError, match=r"shared.*0777.*chmod o-w"):
        RunFolder(shared / "runs" / "try" if deep else shared / "try").create()
    assert list(shared.iterdir()) == []
    shared.chmod(0o1777)
    RunFolder(shared / "try").create()


def test_a_file_in_the_folders_place_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "try").write_text("mine")
    for path in (tmp_path / "try", tmp_path / "try" / "below"):
        with pytest.raises(EnvironmentMismatchError, match="Choose another run folder"):
            RunFolder(path).create()
    assert (tmp_path / "try").read_text() == "mine"


def test_json_is_replaced_whole_and_leaves_no_temporary_file(folder: RunFolder) -> None:
    folder.write_json("status.json", {"step": 1, "text": "x" * 10_000})
    with (folder.path / "status.json").open() as reader:
        folder.write_json("status.json", {"step": 2})
        assert json.load(reader)["step"] == 1
    assert folder.read_json("status.json") == {"step": 2}
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_a_writer_killed_at_any_time_leaves_a_whole_file(folder: RunFolder) -> None:
    endless = "import sys; from pathlib import Path; from mai.run_folder import RunFolder\nn = 0\n"
    endless += (
        "while True:\n    n += 1\n    RunFolder(Path(sys.argv[1])).write_json('status.json', {'a': n, 'b': [n] * 999})"
    )
    for pause_seconds in (0.25, 0.3, 0.35):
        process = start(endless, folder.path)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=pause_seconds)
        process.kill()
        process.wait()
        value = folder.read_json("status.json")
        assert value is None or value["b"] == [value["a"]] * 999


def test_a_missing_file_is_none_and_a_damaged_one_is_named(folder: RunFolder) -> None:
    assert folder.read_json("run.json") is None
    for text in ("", "{", "[1]", "\x00\xff", "[" * 100_000):
        (folder.path / "run.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
            folder.read_json("run.json")


def test_a_full_disk_keeps_the_old_file_and_names_the_new_one(small_disk: Path) -> None:
    folder = RunFolder(small_disk / "try")
    folder.create()
    folder.write_json("status.json", {"step": 1})
    with pytest.raises(
        StorageError, match=r"status\.json: No space left on device .*MiB free.*Free some space"
    ) as full:
        folder.write_json("status.json", {"step": 2, "text": "x" * 100_000})
    assert full.value.code == ExitCode.STORAGE == 216
    assert folder.read_json("status.json") == {"step": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "logs", "status.json"]


def test_attempts_count_up_and_their_numbers_never_come_again(folder: RunFolder) -> None:
    assert folder.last_attempt() == 0
    assert [folder.begin_attempt() for _ in range(3)] == [1, 2, 3]
    folder.write_terminal(12, terminal())
    (folder.path / "events-x.jsonl").touch()
    assert folder.begin_attempt() == 13
    assert folder.attempts() == [1, 2, 3, 12, 13]


def test_two_racing_processes_share_out_attempts_and_terminals_without_a_double(folder: RunFolder) -> None:
    racers = [start(RACER, folder.path, name) for name in ("ONE", "TWO")]
    for process in racers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=30)[0].splitlines() for process in racers]
    attempts = [int(word) for output in outputs for word in output[0].split()]
    assert sorted(attempts) == list(range(1, 41))
    won = [[int(word) for word in line.split()] for line in (outputs[0][1], outputs[1][1])]
    assert sorted(won[0] + won[1]) == list(range(1, 21))
    for name, numbers in zip(("ONE", "TWO"), won, strict=True):
        assert all(said is not None and said.name == name for said in map(folder.read_terminal, numbers))


def test_an_event_is_one_line_that_cannot_move_a_cursor(folder: RunFolder) -> None:
    attempt = folder.begin_attempt()
    folder.event(attempt, "fault", text="two\nlines \x1b[2J \x7f \x9b", loss=float("nan"), attempt=3)
    raw = (folder.path / "events-1.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in raw.rstrip(b"\n"))
    (event,) = folder.read_events(attempt)
    assert event["text"] == "two\nlines \x1b[2J \x7f \x9b"
    assert event["time"].endswith("+00:00")
    assert event["loss"] == "NaN"


def test_the_first_terminal_stands_unless_it_is_replaced(folder: RunFolder) -> None:
    assert folder.read_terminal(1) is None
    assert folder.write_terminal(1, terminal("CRASH"))
    assert not folder.write_terminal(1, terminal("PEER_LOST"))
    assert folder.read_terminal(1) == terminal("CRASH")
    assert folder.write_terminal(1, terminal("HANG"), replace=True)
    assert folder.read_terminal(1) == terminal("HANG")


def test_a_second_live_process_is_told_who_owns_the_folder(folder: RunFolder) -> None:
    owner = start(OWNER, folder.path)
    assert first_line(owner) == "owned"
    contender = start(CONTENDER, folder.path)
    text, _ = contender.communicate(timeout=30)
    assert contender.returncode == ExitCode.BUSY == 85
    lease = folder.is_busy()
    assert lease is not None
    assert lease["pid"] == owner.pid
    assert lease["attempt"] == 7
    for part in (lease["host"], f"pid {owner.pid}", lease["since"], f"kill -TERM {owner.pid}", "another run folder"):
        assert part in text
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert folder.is_busy() is None
    assert start(CONTENDER, folder.path).wait() == 0


def test_children_of_a_killed_owner_do_not_keep_its_lease(folder: RunFolder) -> None:
    owner = start(OWNER_WITH_CHILDREN, folder.path)
    children = [int(word) for word in first_line(owner).split()]
    owner.kill()
    owner.wait()
    try:
        for child in children:
            os.kill(child, 0)
        assert start(CONTENDER, folder.path).wait() == 0
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_fork_that_ends_leaves_the_lease_with_its_parent(folder: RunFolder) -> None:
    with folder.lease(1):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(RunFolderBusyError), folder.lease(2):
            pass
    assert folder.is_busy() is None


def test_a_fork_after_the_lease_does_not_lose_another_file(folder: RunFolder) -> None:
    with folder.lease(1):
        pass
    descriptor = os.open(os.devnull, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            os.fstat(descriptor)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(descriptor)


def test_metrics_after_a_crash_lack_only_the_torn_line(folder: RunFolder) -> None:
    assert list(folder.read_metrics()) == []
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [record["step"] for record in folder.read_metrics()] == [1, 2]
    descriptor = open_for_appending(folder.metrics)
    os.write(descriptor, b'{"step": 3}\n')
    os.close(descriptor)
    assert [record["step"] for record in folder.read_metrics()] == [1, 2, 3]


def test_metrics_of_any_bytes_never_raise(folder: RunFolder) -> None:
    folder.metrics.write_bytes(b'\xff\xfe\n[]\nnull\n{"step": "x"}\n{"loss": 1}\n\n{"step": 4}\n{"step": 5')
    assert list(folder.read_metrics()) == [{"step": 4}]


def test_a_step_that_comes_again_undoes_what_came_after_it() -> None:
    records = [{"step": step, "attempt": 1} for step in (1, 2, 3, 4)] + [{"step": 3, "attempt": 2}]
    kept = surviving(records)
    assert [(record["step"], record["attempt"]) for record in kept] == [(1, 1), (2, 1), (3, 2)]


def test_what_a_script_logs_belongs_to_the_step_before_it_and_goes_with_it(folder: RunFolder) -> None:
    logged = {"step": 2, "attempt": 1, "logged": {"mine": 0.5}}
    steps = [{"step": step, "attempt": 1} for step in (1, 2, 3)]
    lines = [*steps[:2], logged, {**logged, "logged": {"mine": 0.7, "other": 1}}, steps[2]]
    folder.metrics.write_text("".join(plain_json(line) + "\n" for line in lines))
    assert list(folder.read_metrics()) == [steps[0], {**steps[1], "mine": 0.7, "other": 1}, steps[2]]
    assert list(folder.read_steps()) == steps
    again = [{"step": 2, "attempt": 2}, {**logged, "attempt": 1}, {**logged, "logged": "damaged"}]
    assert surviving([*lines, *again]) == [steps[0], {"step": 2, "attempt": 2}]


def test_numbers_that_json_lacks_are_written_as_words_that_float_reads() -> None:
    text = plain_json({"a": [float("nan"), float("inf"), -float("inf"), 1.5]})
    assert text == '{"a": ["NaN", "Infinity", "-Infinity", 1.5]}'
    assert float(json.loads(text)["a"][1]) == float("inf")


def test_a_read_only_disk_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read-only, broken or gone"), naming_storage_errors(tmp_path / "a"):
        (tmp_path / "a" / "b").touch()


def test_a_folder_that_is_written_whole_or_not_at_all_gets_its_name_last(tmp_path: Path) -> None:
    final = tmp_path / "final"
    (tmp_path / ".final.tmp").mkdir()
    (tmp_path / ".final.tmp/left").write_text("by a process that was killed")
    with whole_or_nothing(final) as folder:
        (folder / "part").write_text("written")
        assert not final.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert [path.name for path in final.iterdir()] == ["part"]


def test_a_folder_that_met_an_error_is_not_there(tmp_path: Path) -> None:
    def half() -> None:
        with whole_or_nothing(tmp_path / "final") as folder:
            (folder / "part").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []


def test_steps_that_are_done_again_are_not_counted_twice_and_not_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [{"step": step, "attempt": 1} for step in (1, 2, 3)] + [{"step": 3, "attempt": 1, "logged": {"a": 1.0}}]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "att')
    folder.undo_metrics(after=2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
    assert (tmp_path / "undone.jsonl").read_text().count("\n") == 3
    with folder.metrics.open("a") as file:
        file.write('{"step": 3, "attempt": 2}\n')
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3]
    done = [(line["attempt"], line["step"]) for line in folder.read_steps()]
    assert done == [(1, 1), (1, 2), (1, 3), (2, 3)]


def test_nothing_is_undone_where_all_was_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.undo_metrics(after=0)
    folder.metrics.write_text('{"step": 1, "attempt": 1}\n')
    folder.undo_metrics(after=1)
    assert folder.metrics.read_text() == '{"step": 1, "attempt": 1}\n'
    assert not (tmp_path / "undone.jsonl").exists()
