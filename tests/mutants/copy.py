"""A copy of the tree in which one file at a time is broken, and tests that run there."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.rooms import ROOT

MARK = "MAI_MUTANT"
"""In the environment of all that a test run starts, whoever its parent is by then."""
TIME_RAN_OUT = "time ran out"


@dataclass(frozen=True, slots=True)
class Answer:
    passed: bool
    seconds: float
    noticed_by: str
    """The test that failed, or that time ran out; empty where all passed."""


@dataclass(frozen=True, slots=True)
class Copy:
    folder: Path

    @contextlib.contextmanager
    def broken(self, file: str, text: str) -> Iterator[None]:
        """The file says `text` in the block."""
        path = self.folder / file
        whole = path.read_text()
        try:
            self._write(path, text)
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python knows bytecode by the second and size of its source: two texts of one second look the same.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def test(self, *tests: str, timeout_seconds: float) -> Answer:
        """Run them until one fails; a run that hangs has noticed as well."""
        mark, started = secrets.token_hex(8), time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, MARK: mark, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        with (self.folder / "said").open("w+") as said:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            try:
                code = process.wait(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_all(mark)
                process.wait()
            said.seek(0)
            noticed_by = "" if code == 0 else TIME_RAN_OUT if code is None else first_failure(said.read())
        return Answer(code == 0, time.monotonic() - started, noticed_by)


def first_failure(said: str) -> str:
    """The test in pytest's summary; else the last line."""
    lines = said.strip().splitlines() or ["nothing said"]
    failures = (line for line in lines if line.startswith(("FAILED ", "ERROR ")))
    return next(failures, lines[-1]).removeprefix("FAILED ").removeprefix("ERROR ").partition(" - ")[0]


def end_all(mark: str) -> None:
    """Kill every process that bears the mark: jobs of tests live in sessions of their own."""
    wanted = f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Copy]:
    """All files of the checkout that git does not ignore, beside its .venv, in a folder that goes with the block."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    try:
        yield Copy(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
