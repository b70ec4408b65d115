"""The launcher's children: started by fork, watched without polling, ended together, and asked why they ended."""

import os
import selectors
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from launch.out_of_memory import num_oom_kills
from launch.rank_process import RankMain, read_word, run_as_rank
from launch.verdict import GRACEFUL, RankEnd, code_and_reason
from mai.errors import ExitCode
from mai.parallel.place import Place

_MAX_TAIL_BYTES = 4_096
_MAX_TAIL_LINES = 20


class Note(Protocol):
    """Where the family tells what happens."""

    def __call__(self, kind: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One rank that was started."""

    rank: int
    pid: int
    pidfd: int
    word_descriptor: int
    """The memory file where the rank leaves its word; unlike a pipe it is never full and never blocks."""
    log_path: Path


@dataclass(slots=True, kw_only=True)
class Family:
    """The ranks that run, and how the others ended."""

    note: Note
    running: list[Child] = field(default_factory=list)
    ends: list[RankEnd] = field(default_factory=list)
    """How ranks ended, by themselves or by a foreign hand; those that we ended are no evidence."""
    relayed: set[int] = field(default_factory=set)
    is_ended_by_us: bool = False
    oom_kills_seen: int = field(default_factory=num_oom_kills)

    def start(self, place: Place, rank_main: RankMain, *, log_path: Path) -> None:
        word_descriptor = os.memfd_create(f"rank-{place.rank}")
        launcher = os.getpid()
        # What is still in the buffers would be written once more by every rank.
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            run_as_rank(place, rank_main, launcher=launcher, log_path=log_path, word_descriptor=word_descriptor)
        pidfd = os.pidfd_open(pid)
        child = Child(rank=place.rank, pid=pid, pidfd=pidfd, word_descriptor=word_descriptor, log_path=log_path)
        self.running.append(child)
        self.note("rank_started", rank=place.rank, pid=pid)

    def watch(self, signals: int, *, grace_seconds: float, closing_seconds: float) -> None:
        """Until every rank has ended: pass signals on, and give the others some time after the first has ended, more
        after a good end than after a failure."""
        deadline: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            for child in self.running:
                selector.register(child.pidfd, selectors.EVENT_READ, child)
            while self.running:
                timeout_seconds = None
                if deadline is not None and not self.is_ended_by_us:
                    timeout_seconds = max(0.0, deadline - time.monotonic())
                for key, _ in selector.select(timeout_seconds):
                    if key.data is None:
                        self._relay(os.read(signals, 64))
                    else:
                        selector.unregister(key.fd)
                        self._bury(key.data)
                deadline = self._deadline(deadline, grace_seconds if self._has_failed() else closing_seconds)
                if deadline is not None and time.monotonic() >= deadline:
                    self._kill()

    def end_at_once(self) -> None:
        """Leave no rank behind, whatever happened to the launcher; nothing to do after a watch."""
        self._kill()
        for child in list(self.running):
            self._bury(child)

    def _deadline(self, before: float | None, allowed_seconds: float) -> float | None:
        """When the ranks still running are ended; None while all run."""
        if not self.ends:
            return None
        allowed = time.monotonic() + allowed_seconds
        return allowed if before is None else min(before, allowed)

    def _has_failed(self) -> bool:
        return any(end.code not in GRACEFUL for end in self.ends)

    def _relay(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.note("signal_relayed", signal=signal.Signals(number).name)
            self.relayed.add(number)
            self._send(number)

    def _kill(self) -> None:
        if self.running and not self.is_ended_by_us:
            self.note("ranks_killed", ranks=[child.rank for child in self.running])
            self.is_ended_by_us = True
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for child in self.running:
            with suppress(ProcessLookupError):  # it has ended, and is about to be buried
                signal.pidfd_send_signal(child.pidfd, number)

    def _bury(self, child: Child) -> None:
        """Take the ended rank's status and its word, and end what it left running."""
        # Before waitpid, which frees the number: until then the group is the rank's for certain.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        _, wait_status = os.waitpid(child.pid, 0)
        self.running.remove(child)
        end = self._end_of(child, wait_status)
        os.close(child.pidfd)
        os.close(child.word_descriptor)
        self.note("rank_ended", rank=child.rank, pid=child.pid, code=int(end.code), reason=end.reason)
        if not (self.is_ended_by_us and end.is_killed):
            self.ends.append(end)

    def _end_of(self, child: Child, wait_status: int) -> RankEnd:
        word = read_word(child.word_descriptor)
        if word:
            return RankEnd(
                rank=child.rank,
                pid=child.pid,
                code=ExitCode(word.code),
                seconds=word.seconds,
                is_killed=False,
                reason=word.message,
                evidence=word.evidence,
            )
        is_sigkill = os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == signal.SIGKILL
        is_oom_kill = is_sigkill and self._has_oom_killed()
        code, reason = code_and_reason(wait_status, relayed=self.relayed, is_oom_kill=is_oom_kill)
        return RankEnd(
            rank=child.rank,
            pid=child.pid,
            code=code,
            seconds=time.monotonic(),
            is_killed=os.WIFSIGNALED(wait_status),
            reason=reason,
            evidence=f"{reason}\n{_tail(child.log_path)}",
        )

    def _has_oom_killed(self) -> bool:
        before, self.oom_kills_seen = self.oom_kills_seen, num_oom_kills()
        return self.oom_kills_seen > before


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_MAX_TAIL_LINES:])
