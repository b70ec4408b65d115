"""The child's side: a forked copy of the launcher becomes one rank, runs, and leaves word of how it ended."""

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from mai.errors import ExitCode, MaiError, exit_code_of
from mai.parallel.place import Place
from mai.run_folder import open_for_appending, plain_json

RankMain = Callable[[Place], int]
"""What a rank does; returns its exit code. It ends with `os._exit`: `atexit` functions of the rank do not run."""

RELAYED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
"""Signals that the launcher passes on to every rank."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_MAX_TRACEBACK_CHARACTERS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """What a rank says of its own failure."""

    code: int
    seconds: float
    """When it failed, on the machine's monotonic clock, which the launcher reads too."""
    message: str
    evidence: str
    """The traceback, except where the message says it all."""


def read_word(descriptor: int) -> Word | None:
    """What the rank left; None if it failed without a word."""
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    try:
        return Word(**json.loads(text))
    except ValueError:  # killed before it wrote, or while it did
        return None


def run_as_rank(place: Place, rank_main: RankMain, *, launcher: int, log_path: Path, word_descriptor: int) -> NoReturn:
    """Never returns to the code of the launcher, which this process is a copy of.

    Args:
        launcher: its process id.
        word_descriptor: of an open file for the `Word`.
    """
    code: int = ExitCode.CRASH
    try:
        _stay_with(launcher)
        _take_over_signals()
        _take_over_environment(place)
        log = os.fdopen(open_for_appending(log_path), "a", 1, encoding="utf-8", errors="backslashreplace")
        _take_over_streams(log, keeps_terminal=place.rank == 0)
        code = _guarded(place, rank_main, log=log, word_descriptor=word_descriptor)
    except BaseException as error:  # noqa: BLE001 (before the rank's own code began)
        code = _leave_word(word_descriptor, error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _stay_with(launcher: int) -> None:
    """Die when the launcher dies, however it dies; and hear the terminal's signals only through it."""
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != launcher:  # it died before the call, so that no signal comes any more
        os._exit(ExitCode.PEER_LOST)
    os.setsid()


def _take_over_environment(place: Place) -> None:
    """Tell libraries the rank's place and its share of the processors; those loaded already do not look again."""
    os.environ.update(place.to_environment())
    share = len(os.sched_getaffinity(0)) // place.world_size
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def _take_over_streams(log: TextIO, *, keeps_terminal: bool) -> None:
    """Send output to the rank's log, except for the rank that keeps the terminal; stdin is empty for all."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    if not keeps_terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
    faulthandler.enable(log)


def _take_over_signals() -> None:
    """Forget the launcher's handlers; `rank_main` installs its own (mai/resilience/signals.py).

    Until then a request to end ends the rank, with nothing to lose yet, and a request to save means nothing.
    """
    # Inherited too: without this every signal to a rank would look like one to the launcher.
    signal.set_wakeup_fd(-1)
    for number in RELAYED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)


def _guarded(place: Place, rank_main: RankMain, *, log: TextIO, word_descriptor: int) -> int:
    """Run, and turn what nobody caught into an exit code: the reason to the launcher, the traceback to the log."""
    try:
        return rank_main(place)
    except BaseException as error:  # noqa: BLE001 (whatever it is, the launcher has to hear of it)
        code = _leave_word(word_descriptor, error)
        with contextlib.suppress(OSError):
            traceback.print_exception(error, file=log)
        return code


def _leave_word(descriptor: int, error: BaseException) -> ExitCode:
    message = str(error) if isinstance(error, MaiError) else "".join(traceback.format_exception_only(error)).strip()
    trace = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK_CHARACTERS:]
    word = Word(
        code=exit_code_of(error),
        seconds=time.monotonic(),
        message=message,
        evidence=message if isinstance(error, MaiError) else trace,
    )
    os.pwrite(descriptor, plain_json(asdict(word)).encode(), 0)
    return exit_code_of(error)
