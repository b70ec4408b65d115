"""`mai ...` as a process of its own, watched from outside: its exit code, what it says, what it leaves behind.

    job = start(["train", "tiny", ...], folder=run_folder)
    job.wait_for_step(8)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 210

A cold start is `python -m mai`, 4 to 6 seconds of imports. A warm one is the same command in a process forked from
the server of tests/ranks.py, which has imported everything already.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mai.cli
from mai.recipe import Recipe
from mai.run_folder import RunFolder, Terminal
from tests.ranks import CONTEXT

ROOT = Path(__file__).parents[1]

BATCH_TOKENS = 1024
TRAINED = (
    "parallel.tensor=2",
    "parallel.pipeline=2",
    "parallel.data=2",
    "parallel.sequence=true",
    f"train.batch_tokens={BATCH_TOKENS}",
    "evaluate.sequences=16",
    "checkpoint.every_steps=10",
)
"""How the `trained` run differs from `tiny`."""


class Job:
    """A `mai` command that runs, or has run."""

    def __init__(self, folder: RunFolder, pid: int, log: Path, wait: Callable[[float], int]) -> None:
        self.folder, self.pid, self._log, self._wait = folder, pid, log, wait

    def exit_code(self, *, seconds: float = 120.0) -> int:
        """Waits for the end; negative when a signal ended it."""
        return self._wait(seconds)

    @property
    def stdout(self) -> str:
        return self._log.with_suffix(".out").read_text()

    @property
    def stderr(self) -> str:
        return self._log.with_suffix(".err").read_text()

    @property
    def attempt(self) -> int:
        return self.folder.last_attempt()

    @property
    def terminal(self) -> Terminal:
        terminal = self.folder.read_terminal(self.attempt)
        assert terminal is not None, f"attempt {self.attempt} left no word of how it ended"
        return terminal

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Of the newest attempt."""
        return [event for event in self.folder.read_events(self.attempt) if event["kind"] == kind]

    def rank_pids(self) -> list[int]:
        return [event["pid"] for event in self.events("rank_started")]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def step(self) -> int:
        """The newest step in metrics.jsonl; 0 before the first."""
        return max((record["step"] for record in self.folder.read_metrics()), default=0)

    def wait_for_step(self, step: int, *, seconds: float = 120.0) -> None:
        wait_until(lambda: self.step() >= step, seconds=seconds)

    def left_behind(self) -> list[int]:
        """Processes of the newest attempt, or that name its run folder, which are still alive."""
        return [pid for pid in {*self.rank_pids(), *_pids_naming(str(self.folder.path))} if is_alive(pid)]

    def end(self) -> None:
        """Whatever happened to the test, nothing stays."""
        for pid in {self.pid, *self.rank_pids()}:
            with contextlib.suppress(ProcessLookupError):
                # A rank's number may be another process's by now: one of the other worker's.
                if pid == self.pid or _writes_into(pid, self.folder.path):
                    os.kill(pid, signal.SIGKILL)


def _writes_into(pid: int, folder: Path) -> bool:
    """Whether a file of the folder is open there, as a rank's log is."""
    try:
        files = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(file.startswith(f"{folder}/") for file in files)


def start(
    arguments: Sequence[str],
    *,
    folder: Path,
    cold: bool = False,
    environment: Mapping[str, str] | None = None,
    plant: Callable[[], None] | None = None,
) -> Job:
    """`mai ARGUMENTS` in a session of its own. `folder` is the run folder that the arguments name.
    `plant` breaks something in a warm one's process before it begins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}-said-{time.monotonic_ns()}"
    values = dict(environment or {})
    if cold:
        return start_program([sys.executable, "-m", "mai", *arguments], folder=folder, log=log, environment=values)
    process = CONTEXT.Process(target=run_mai, args=(list(arguments), str(log), values, ROOT, plant), daemon=True)
    process.start()
    assert process.pid is not None

    def wait(seconds: float) -> int:
        process.join(seconds)
        assert process.exitcode is not None, f"mai {' '.join(arguments)} still runs after {seconds:.0f} s"
        return process.exitcode

    return Job(RunFolder(folder), process.pid, log, wait)


def start_program(
    command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Job:
    """Any program that trains into `folder`: `python -m mai`, torchrun, a script."""
    with log.with_suffix(".out").open("w") as out, log.with_suffix(".err").open("w") as err:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Job(RunFolder(folder), process.pid, log, lambda seconds: process.wait(timeout=seconds))


def run_mai(
    arguments: list[str], log: str, environment: dict[str, str], folder: Path, plant: Callable[[], None] | None
) -> None:
    """Runs in the forked process, which becomes what a shell in the folder would have started."""
    if plant is not None:
        plant()
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, path in ((0, os.devnull), (1, f"{log}.out"), (2, f"{log}.err")):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["mai", *arguments]
    mai.cli.main()


@contextlib.contextmanager
def ended_jobs() -> Iterator[Callable[..., Job]]:
    """`start`, whose jobs all end with the block."""
    jobs: list[Job] = []

    def start_one(*arguments: Any, **options: Any) -> Job:
        jobs.append(start(*arguments, **options))
        return jobs[-1]

    try:
        yield start_one
    finally:
        for job in jobs:
            job.end()


def on_corpus(prepared: Recipe) -> list[str]:
    """The overrides that make `tiny` read the prepared corpus of the tests."""
    data = prepared.data
    return [
        f"data.documents={','.join(data.documents)}",
        f"data.folder={data.folder}",
        f"data.held_out_fraction={data.held_out_fraction}",
    ]


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def processor_seconds() -> float:
    """Of all processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _pids_naming(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found
