"""The run folder: all that is known about a run, on disk. Resume and `mai show` read nothing else.

    run.json                  what runs: run_id, recipe_fingerprint, data_fingerprint, versions {name: version},
                              commit, layout {axis: degree}, kernels {operation: what computes it}, num_parameters,
                              created
    recipe.json               the resolved recipe
    tokenizer.json            what turns its tokens into text
    status.json               where it stands: phase, step, last_committed_step, tokens, tokens_per_second,
                              heartbeat, attempt, estimated_save_seconds, ended (name and exit code, or null)
    events-<attempt>.jsonl    one line for each thing that happened in an attempt
    terminal-<attempt>.json   how that attempt ended (`Terminal`)
    metrics.jsonl             one line a step that the run stands on, appended by every attempt; what a script logs of a
                              step is a line of its own behind it: step, attempt, time, logged {name: number}
    undone.jsonl              the lines of steps that were done and not saved, and that a later attempt does again
    lease.json                the live process that owns the folder (`lease.py`)
    stop                      an operator puts it there to stop the run
    checkpoints/  logs/

JSON files change atomically, so a damaged one was not damaged by a crash of ours. Line files may break off in the
middle of a line when a process dies; readers leave such a line out. The file system must know rename, hard links and
flock, as local disks, NFS and Lustre (mounted with `flock`) do.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mai.errors import CheckpointError, RunFolderBusyError, StorageError
from mai.run_folder import lease
from mai.run_folder.disk import (
    FILE_MODE,
    complete_temporary,
    make_private_folder,
    naming_storage_errors,
    open_for_appending,
    parsed_object,
    plain_json,
    read_lines,
    sync_folder,
    utc_now,
)

CHECKPOINTS = "checkpoints"
STEP_NAME = re.compile(r"step-(\d{10})")
"""A folder of that, with a whole checkpoint in it."""

_ATTEMPT_FILE = re.compile(r"events-([1-9]\d*)\.jsonl|terminal-([1-9]\d*)\.json")


DRY_RUN = "dry run"
"""The phase of an attempt that takes no step: how it ended says nothing of what the run has come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """How an attempt ended; written before the process exits."""

    code: int
    """Exit code, one of `mai.errors.ExitCode`."""
    name: str
    culprit: dict[str, Any] | None
    """Rank, host and pid of the process at fault; None where nobody is."""
    phase: str
    step: int
    last_committed_step: int | None
    evidence: str
    suggestion: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run. Making one touches nothing; `create` makes the folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the run reads and speaks with."""
        return self.path / "tokenizer.json"

    @property
    def stop(self) -> Path:
        """Where an operator puts a file to stop the run."""
        return self.path / "stop"

    def create(self) -> None:
        """Make the folder and its sub-folders where they are missing; refuse a place where everybody may write."""
        for folder in (self.path, self.checkpoints, self.logs):
            with naming_storage_errors(folder):
                make_private_folder(folder)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The file's value; None if there is no such file."""
        path = self.path / name
        with naming_storage_errors(path):
            try:
                text = path.read_text("utf-8", errors="replace")
            except FileNotFoundError:
                return None
        value = parsed_object(text)
        if value is None:
            raise CheckpointError(
                f"{path} is damaged: it does not hold one JSON object. It is only ever written whole, so something "
                "else changed it; restore it from a copy, or start in a new folder"
            )
        return value

    def status_of(self, attempt: int) -> dict[str, Any]:
        """status.json, where this attempt wrote it; nothing where an older one did, which stood elsewhere."""
        status = self.read_json("status.json") or {}
        return status if status.get("attempt") == attempt else {}

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replace the file as a whole: after a crash it is the old one or the new one."""
        path = self.path / name
        with naming_storage_errors(path), complete_temporary(path, plain_json(value, indent=2) + "\n") as temporary:
            temporary.replace(path)
            sync_folder(self.path)

    def attempts(self) -> list[int]:
        """Numbers of all attempts so far, ascending."""
        with naming_storage_errors(self.path):
            names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        matches = (_ATTEMPT_FILE.fullmatch(name) for name in names)
        return sorted({int(match[1] or match[2]) for match in matches if match})

    def last_attempt(self) -> int:
        """The newest attempt's number; 0 before the first."""
        return max(self.attempts(), default=0)

    def begin_attempt(self) -> int:
        """Take the next number, by creating its events file; no two processes get the same."""
        attempt = self.last_attempt() + 1
        while True:
            path = self._events(attempt)
            with naming_storage_errors(path):
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
                except FileExistsError:
                    attempt += 1
                    continue
                sync_folder(self.path)
            return attempt

    def event(self, attempt: int, kind: str, /, **fields: Any) -> None:
        """Append one line saying what happened, with the time in UTC."""
        path = self._events(attempt)
        line = plain_json({"time": utc_now(), "kind": kind, **fields}) + "\n"
        with naming_storage_errors(path), os.fdopen(open_for_appending(path), "ab") as file:
            file.write(line.encode())

    def write_terminal(self, attempt: int, terminal: Terminal, *, replace: bool = False) -> bool:
        """Say how the attempt ended, unless somebody has; True if this call's word stands.

        Args:
            replace: for the one who knows better: the whole job's verdict over that of a rank.
        """
        path = self._terminal(attempt)
        text = plain_json(asdict(terminal), indent=2) + "\n"
        with naming_storage_errors(path), complete_temporary(path, text) as temporary:
            try:
                if replace:
                    temporary.replace(path)
                else:
                    os.link(temporary, path)
            except FileExistsError:
                return False
            sync_folder(self.path)
        return True

    def lease(self, attempt: int) -> AbstractContextManager[None]:
        """Own the folder while the block runs; a second live process gets RunFolderBusyError."""
        return lease.held(self._lease, attempt=attempt)

    def refuse_if_busy(self) -> None:
        """RunFolderBusyError if a live process owns the folder; an early word, the lease itself decides."""
        if (owner := self.is_busy()) is not None:
            raise RunFolderBusyError(lease.busy_text(self.path, owner))

    def is_busy(self) -> dict[str, Any] | None:
        """The lease of the live process that owns the folder (empty if it has not signed yet); None if nobody does."""
        return lease.owner(self._lease)

    def read_events(self, attempt: int) -> Iterator[dict[str, Any]]:
        """The attempt's events, oldest first."""
        return read_lines(self._events(attempt))

    def read_terminal(self, attempt: int) -> Terminal | None:
        """How the attempt ended; None if nobody has said."""
        path = self._terminal(attempt)
        value = self.read_json(path.name)
        if value is None:
            return None
        try:
            return Terminal(**value)
        except TypeError as error:
            raise StorageError(f"{path} is damaged: {error}; delete it to go on without it") from error

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """One record a step, of the steps that the run stands on, with what was logged of it; undone ones and a torn
        last line are left out."""
        return iter(surviving(read_lines(self.metrics)))

    def read_steps(self) -> Iterator[dict[str, Any]]:
        """One record for each time that a step was done, undone ones included, without what was logged."""
        lines = [line for path in (self._undone, self.metrics) for line in read_lines(path) if "logged" not in line]
        return iter(sorted(lines, key=lambda line: (line.get("attempt", 0), line.get("step", 0))))

    def undo_metrics(self, *, after: int) -> None:
        """Move what metrics.jsonl says of steps behind this one to undone.jsonl: they are done again.

        Whoever owns the folder calls, before anything is appended. A crash on the way leaves lines in both files."""
        if not self.metrics.is_file():
            return
        with naming_storage_errors(self.metrics), self.metrics.open("r+b") as file:
            lines = file.readlines()
            kept = len(lines)
            while kept and _step_of(lines[kept - 1], torn=after + 1) > after:
                kept -= 1
            if kept == len(lines):
                return
            with naming_storage_errors(self._undone), os.fdopen(open_for_appending(self._undone), "ab") as undone:
                undone.writelines(line if line.endswith(b"\n") else line + b"\n" for line in lines[kept:])
                undone.flush()
                os.fsync(undone.fileno())
            file.truncate(sum(map(len, lines[:kept])))
            os.fsync(file.fileno())

    def _events(self, attempt: int) -> Path:
        return self.path / f"events-{attempt}.jsonl"

    def _terminal(self, attempt: int) -> Path:
        return self.path / f"terminal-{attempt}.json"

    @property
    def _undone(self) -> Path:
        return self.path / "undone.jsonl"

    @property
    def _lease(self) -> Path:
        return self.path / "lease.json"


def _step_of(line: bytes, *, torn: int) -> int:
    """The step of a line of metrics.jsonl; `torn` for one that broke off."""
    value = parsed_object(line.decode("utf-8", errors="replace"))
    step = None if value is None else value.get("step")
    return step if type(step) is int else torn


def surviving(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that the run stands on: a step that comes again undoes itself and all that came after it."""
    kept: list[dict[str, Any]] = []
    for record in records:
        if type(record.get("step")) is not int:
            continue
        if "logged" in record:
            logged, last = record["logged"], kept[-1] if kept else {}
            if isinstance(logged, dict) and all(last.get(key) == record.get(key) for key in ("step", "attempt")):
                kept[-1] = {**last, **logged}
            continue
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept
