"""Run all ranks of a job on this machine, and tell the truth about how it ended in one exit code.

    launcher                                   rank (rank_process.py)
    fork ------------------------------------> own session; dies with the launcher
    SIGTERM, SIGINT, ... --------------------> every rank
    pidfd readable <-------------------------- ended; why, it wrote into a memory file
    first failure: a grace for the others, then SIGKILL
    verdict.py: terminal-<attempt>.json, a paragraph on stderr, the exit code

Ranks are forked from the present process: what it has imported (torch, the engine) they need not load again. So it
must have one thread and nothing started yet: no process group, no CUDA context, no tensor work on several threads.

Only for Linux (pidfd, memfd, PR_SET_PDEATHSIG). What a rank started is ended with the rank; if the launcher itself is
killed with SIGKILL, only the ranks are sure to die.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.family import Family
from launch.job import Job
from launch.port import ADDRESS, reserved_port
from launch.rank_process import RELAYED
from launch.verdict import SUGGESTIONS, RankEnd, find_culprit, job_code, paragraph
from mai.errors import ExitCode, MaiError
from mai.log import log, point_nowhere
from mai.parallel.place import Place
from mai.run_folder import Terminal


def run_ranks(job: Job) -> ExitCode:
    """Start the ranks, wait for all of them, and say how the job ended: in the run folder, on stderr, as a code."""
    assert threading.active_count() == 1, "fork copies one thread; locks that another one holds stay locked for ever"
    family = Family(note=lambda kind, **fields: _note(job, kind, fields))
    with reserved_port() as port, _signals_as_bytes() as signals:
        try:
            with _signals_held_back():
                for rank in range(job.num_ranks):
                    family.start(_place(rank, job.num_ranks, port), job.rank_main, log_path=_log_path(job, rank))
            family.watch(signals, grace_seconds=job.grace_seconds, closing_seconds=job.closing_seconds)
        finally:
            family.end_at_once()
        return _conclude(family.ends, job)


def _place(rank: int, num_ranks: int, port: int) -> Place:
    return Place(rank=rank, world_size=num_ranks, local_rank=rank, master_address=ADDRESS, master_port=port)


def _log_path(job: Job, rank: int) -> Path:
    return job.folder.logs / f"rank-{rank:05d}-attempt-{job.attempt}.log"


@contextmanager
def _signals_as_bytes() -> Iterator[int]:
    """A descriptor that brings the number of each signal meant for the ranks, none of which ends this process now."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # nohup ignores SIGHUP so that the job outlives the terminal.
    caught = [number for number in RELAYED if number != signal.SIGHUP or not _is_ignored(number)]
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in caught}
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(reader)
        os.close(writer)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """While ranks are started: what comes now is passed on when all of them are there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _conclude(ends: Sequence[RankEnd], job: Job) -> ExitCode:
    """Write down and say how it ended; a full disk or a closed terminal does not change the exit code."""
    code, culprit = job_code(ends), find_culprit(ends)
    try:
        job.folder.write_terminal(job.attempt, _terminal(code, culprit, _status(job)), replace=True)
    except MaiError as error:
        log.error("%s", error)
    _note(job, "job_ended", {"code": int(code), "name": code.name})
    if code is not ExitCode.COMPLETE:
        log_path = _log_path(job, culprit.rank if culprit else 0)
        _say(paragraph(code, culprit, log=str(log_path)))
    return code


def _terminal(code: ExitCode, culprit: RankEnd | None, status: dict[str, Any]) -> Terminal:
    return Terminal(
        code=code,
        name=code.name,
        culprit={"rank": culprit.rank, "host": socket.gethostname(), "pid": culprit.pid} if culprit else None,
        phase=status.get("phase", "start"),
        step=status.get("step", 0),
        last_committed_step=status.get("last_committed_step"),
        evidence=culprit.evidence if culprit else "",
        suggestion=SUGGESTIONS.get(code, ""),
    )


def _status(job: Job) -> dict[str, Any]:
    try:
        return job.folder.status_of(job.attempt)
    except MaiError as error:
        log.error("%s", error)
        return {}


def _note(job: Job, kind: str, fields: dict[str, Any]) -> None:
    try:
        job.folder.event(job.attempt, kind, **fields)
    except MaiError as error:  # the ranks must go on, and be waited for, even if the disk is full
        log.error("%s", error)


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        point_nowhere(sys.stderr)
