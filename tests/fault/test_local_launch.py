"""The launcher tells the truth in its exit code, whatever happens to its ranks or to itself.

Each test starts a real launcher in a process of its own; what its ranks do is in rank_mains.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mai.parallel.place import Place
from mai.run_folder import RunFolder, Terminal
from tests.fault import rank_mains
from tests.fault.rank_mains import GRACE_SECONDS, NUM_RANKS
from tests.jobs import is_alive, wait_until

# Most of them time how long something takes to end.
pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
ALL_RANKS = range(NUM_RANKS)


class Job:
    """A launcher that runs, its ranks, and what it left in the run folder."""

    def __init__(self, rank_main: Callable[[Path, Place], int], folder: Path, **options: object) -> None:
        code = "import sys; from tests.fault.rank_mains import launcher; launcher(*sys.argv[1:])"
        command = [sys.executable, "-c", code, rank_main.__name__, str(folder)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        self.folder = RunFolder(folder)
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **streams)  # type: ignore[call-overload]
        self.stdout = self.stderr = ""

    def pids(self) -> list[int]:
        """Of the ranks, once all of them are ready."""
        files = [self.folder.path / f"ready-{rank}" for rank in ALL_RANKS]
        wait_until(lambda: all(file.exists() for file in files), seconds=30)
        return self.started()

    def started(self) -> list[int]:
        return [event["pid"] for event in self.folder.read_events(1) if event["kind"] == "rank_started"]

    def exit_code(self) -> int:
        self.stdout, self.stderr = self.process.communicate(timeout=30)
        return int(self.process.returncode)

    @property
    def terminal(self) -> Terminal:
        terminal = self.folder.read_terminal(1)
        assert terminal is not None
        return terminal

    @property
    def culprit(self) -> int | None:
        return self.terminal.culprit["rank"] if self.terminal.culprit else None

    def log(self, rank: int) -> str:
        return (self.folder.logs / f"rank-{rank:05d}-attempt-1.log").read_text()

    def said(self, rank: int) -> str:
        return (self.folder.path / f"said-{rank}").read_text()


Launch = Callable[..., Job]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    jobs: list[Job] = []

    def start(rank_main: Callable[[Path, Place], int], **options: object) -> Job:
        jobs.append(Job(rank_main, tmp_path / "run", **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.process.kill()
        for pid in filter(is_alive, job.started()):
            os.kill(pid, signal.SIGKILL)
        job.process.communicate()


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group (v2 or v1) whose processes share 200 MiB."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    unified = "memory" not in groups
    parent = Path(f"/sys/fs/cgroup{groups['']}" if unified else f"/sys/fs/cgroup/memory{groups['memory']}")
    group = parent / f"mai-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no right to make a control group: {error}")
    try:
        (group / ("memory.max" if unified else "memory.limit_in_bytes")).write_text("200M")
        yield group
    except OSError as error:
        pytest.skip(f"no right to limit memory: {error}")
    finally:
        group.rmdir()


def test_all_succeed(launch: Launch) -> None:
    job = launch(rank_mains.complete)
    assert job.exit_code() == 0
    assert (job.terminal.code, job.terminal.name, job.culprit) == (0, "COMPLETE", None)
    assert job.stderr == ""


def test_rank_0_keeps_the_terminal_and_the_others_write_their_logs(launch: Launch) -> None:
    job = launch(rank_mains.complete)
    job.exit_code()
    outputs = [json.loads(job.stdout), *(json.loads(job.log(rank)) for rank in ALL_RANKS[1:])]
    (port,) = {output[4] for output in outputs}
    assert outputs == [[str(rank), str(NUM_RANKS), str(rank), "127.0.0.1", port] for rank in ALL_RANKS]


def test_the_culprits_code_is_the_jobs_code_although_its_victims_end_first(launch: Launch) -> None:
    job = launch(rank_mains.one_has_bad_data)
    assert job.exit_code() == 81
    assert (job.terminal.name, job.culprit) == ("DATA", 2)
    assert job.terminal.evidence == "shard 7 of data/web is damaged; prepare it again"
    assert "mai prepare" in job.terminal.suggestion
    for part in ("DATA (exit code 81): rank 2", "shard 7 of data/web", "rank-00002-attempt-1.log", "next:"):
        assert part in job.stderr
    assert "Traceback" not in job.stderr


def test_a_killed_rank_is_named_and_the_others_end_within_the_grace(launch: Launch) -> None:
    job = launch(rank_mains.sleep)
    pids = job.pids()
    killed = time.monotonic()
    os.kill(pids[2], signal.SIGKILL)
    assert job.exit_code() == 213
    assert time.monotonic() - killed < GRACE_SECONDS + 2
    assert (job.terminal.name, job.culprit, job.terminal.evidence.strip()) == ("PEER_LOST", 2, "killed by SIGKILL")
    assert not any(map(is_alive, pids))


def test_a_killed_rank_is_to_blame_for_the_crashes_it_causes(launch: Launch) -> None:
    job = launch(rank_mains.crash_when_a_peer_dies)
    os.kill(job.pids()[0], signal.SIGKILL)
    assert job.exit_code() == 213
    assert job.culprit == 0


def test_a_killed_launcher_leaves_no_rank_behind(launch: Launch) -> None:
    job = launch(rank_mains.ignore_everything_for_ever)
    pids = job.pids()
    job.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)), seconds=2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_launcher_reaches_every_rank(launch: Launch, name: str) -> None:
    job = launch(rank_mains.stop_when_asked)
    job.pids()
    job.process.send_signal(signal.Signals[name])
    assert job.exit_code() == (87 if name == "SIGINT" else 210)
    assert [job.said(rank) for rank in ALL_RANKS] == [str(signal.Signals[name])] * NUM_RANKS
    assert job.culprit is None
    assert "next: Start the same command again" in job.stderr


def test_a_signal_to_one_rank_is_that_ranks_business(launch: Launch) -> None:
    job = launch(rank_mains.stop_when_one_was_asked)
    os.kill(job.pids()[1], signal.SIGTERM)
    assert job.exit_code() == 210
    assert [(job.folder.path / f"said-{rank}").exists() for rank in ALL_RANKS] == [False, True, False, False]


def test_control_c_arrives_once_at_every_rank(launch: Launch) -> None:
    job = launch(rank_mains.count_interrupts)
    job.pids()
    os.killpg(job.process.pid, signal.SIGINT)  # as the terminal does: to the whole foreground group
    wait_until(lambda: any(e["kind"] == "signal_relayed" for e in job.folder.read_events(1)), seconds=5)
    time.sleep(0.2)
    (job.folder.path / "enough").touch()
    assert job.exit_code() == 87
    assert [job.said(rank) for rank in ALL_RANKS] == ["1"] * NUM_RANKS


def test_control_c_twice_ends_at_once_unsaved(launch: Launch) -> None:
    job = launch(rank_mains.ignore_the_first_request)
    job.pids()
    os.killpg(job.process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.exit_code() == 211


def test_a_rank_that_is_not_ready_to_save_yet_ends_unsaved(launch: Launch) -> None:
    job = launch(rank_mains.sleep)
    job.pids()
    job.process.terminate()
    assert job.exit_code() == 211
    assert "before it was ready to save" in job.terminal.evidence


def test_save_now_reaches_every_rank_and_the_run_goes_on(launch: Launch) -> None:
    job = launch(rank_mains.save_when_asked)
    job.pids()
    job.process.send_signal(signal.SIGUSR2)
    assert job.exit_code() == 0


def test_sigquit_shows_the_stacks_of_all_ranks_and_the_run_goes_on(launch: Launch) -> None:
    job = launch(rank_mains.stop_when_asked)
    job.pids()
    job.process.send_signal(signal.SIGQUIT)
    wait_until(lambda: all("stop_when_asked" in job.log(rank) for rank in ALL_RANKS[1:]), seconds=5)
    job.process.terminate()
    assert job.exit_code() == 210
    assert "stop_when_asked" in job.stderr


def test_a_hangup_does_not_end_a_job_started_with_nohup(launch: Launch) -> None:
    job = launch(rank_mains.stop_when_asked, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    pids = job.pids()
    for pid in (job.process.pid, *pids):
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.2)
    job.process.terminate()
    assert job.exit_code() == 210
    assert [job.said(rank) for rank in ALL_RANKS] == [str(signal.SIGTERM)] * NUM_RANKS


def test_a_rank_that_ignores_everything_is_killed_after_the_grace(launch: Launch) -> None:
    job = launch(rank_mains.ignore_everything)
    assert job.exit_code() == 81
    assert job.culprit == 1
    (killed,) = [event["ranks"] for event in job.folder.read_events(1) if event["kind"] == "ranks_killed"]
    assert killed == [0, 2, 3]


def test_a_mistake_leaves_its_traceback_in_the_log_and_not_on_the_terminal(launch: Launch) -> None:
    job = launch(rank_mains.fail_by_mistake)
    assert job.exit_code() == 1
    assert job.terminal.name == "CRASH"
    assert job.culprit in (0, 3)
    assert "in fail_by_mistake" in job.terminal.evidence
    assert "Traceback" not in job.stderr + job.stdout
    assert f"ValueError: a mistake of rank {job.culprit}" in job.stderr
    for rank in (0, 3):
        assert "Traceback" in job.log(rank)
    assert "rank 3 was here" in job.log(3)


def test_a_full_disk_is_named_even_where_nobody_caught_it(launch: Launch) -> None:
    job = launch(rank_mains.fill_the_disk)
    assert job.exit_code() == 216
    assert "No space left on device" in job.stderr


def test_a_segmentation_fault_is_a_crash_with_its_stack(launch: Launch) -> None:
    job = launch(rank_mains.fall_off_memory)
    assert job.exit_code() == 1
    assert job.culprit == 1
    assert "killed by SIGSEGV" in job.terminal.evidence
    assert "in fall_off_memory" in job.terminal.evidence


def test_the_out_of_memory_killer_is_recognised(launch: Launch, small_memory: Path) -> None:
    job = launch(
        rank_mains.take_all_memory, preexec_fn=lambda: (small_memory / "cgroup.procs").write_text(str(os.getpid()))
    )
    assert job.exit_code() == 218
    assert (job.terminal.name, job.culprit) == ("OUT_OF_MEMORY", 1)


def test_an_unknown_exit_code_is_a_crash_that_its_victims_do_not_hide(launch: Launch) -> None:
    job = launch(rank_mains.end_with_an_unknown_code)
    assert job.exit_code() == 1
    assert job.culprit == 1
    assert "exit code 3" in job.stderr


def test_what_a_rank_leaves_running_ends_with_it(launch: Launch) -> None:
    job = launch(rank_mains.leave_a_worker_behind)
    assert job.exit_code() == 0
    assert not any(is_alive(int(job.said(rank))) for rank in ALL_RANKS)


def test_the_ranks_meet_at_a_port_that_nobody_else_gets(launch: Launch) -> None:
    job = launch(rank_mains.meet)
    assert job.exit_code() == 0


def test_a_closed_terminal_does_not_change_the_exit_code(launch: Launch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    job = launch(rank_mains.one_has_bad_data, stderr=writer)
    os.close(writer)
    assert job.exit_code() == 81
    assert job.culprit == 2


@pytest.mark.parametrize(
    ("attempt", "stood"), [(1, ("train", 17, 10)), (0, ("start", 0, None))], ids=["its own", "an older attempt's"]
)
def test_the_run_folder_says_where_the_attempt_stood(
    attempt: int, stood: tuple[str, int, int | None], launch: Launch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_json("status.json", {"phase": "train", "step": 17, "last_committed_step": 10, "attempt": attempt})
    job = launch(rank_mains.sleep)
    os.kill(job.pids()[0], signal.SIGKILL)
    job.exit_code()
    assert (job.terminal.phase, job.terminal.step, job.terminal.last_committed_step) == stood
