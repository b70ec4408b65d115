"""Signals from outside become a request that the loop reads at its step boundary.

A handler only sets a flag: saving inside a handler runs in the middle of whatever the main thread was doing. No rank
acts alone either, or the others wait for it for ever: all ranks agree on the highest request first, in a reduction
that the loop does anyway.

    SIGTERM, SIGHUP, SIGUSR1   PREEMPTED   save and end, to be started again (Slurm: --signal=USR1@seconds)
    SIGINT                     STOPPED     save and end
    SIGUSR2                    SAVE        save and go on
    SIGQUIT                                write every thread's Python stack to stderr, go on
    SIGTERM or SIGINT again                end at once, unsaved
"""

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

from mai.errors import ExitCode

# Slurm signals every process of a step (https://slurm.schedmd.com/scancel.html), the launcher and the ranks, and the
# launcher passes it on: two SIGTERMs so close together are one.
_SAME_SIGTERM_SECONDS = 2.0
_STDERR = 2


class StopRequest(IntEnum):
    """What the outside asks for; of several requests, also from several ranks, the highest counts."""

    NONE = 0
    SAVE = 1
    PREEMPTED = 2
    STOPPED = 3

    @property
    def ends(self) -> bool:
        """Whether the run ends, after a save."""
        return self >= StopRequest.PREEMPTED


class StopSignals:
    """Catches the signals while its block runs, in the main thread; afterwards all is as before.

    Example:
        with StopSignals() as signals:
            ...
            request = agree_max(signals.request())  # all ranks
    """

    def __init__(self) -> None:
        self.first_signal: signal.Signals | None = None
        """The first signal that asked for an end."""
        self._first_seconds: dict[int, float] = {}
        self._end = StopRequest.NONE
        self._is_save_asked = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGUSR2):
            # nohup ignores SIGHUP so that the job outlives the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        faulthandler.register(signal.SIGQUIT, file=_STDERR, all_threads=True)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.unregister(signal.SIGQUIT)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self) -> StopRequest:
        """What this rank was asked for so far."""
        return max(self._end, StopRequest.SAVE if self._is_save_asked else StopRequest.NONE)

    def forget_save(self) -> None:
        """The save that was asked for begins now; the next SIGUSR2 asks for another one."""
        self._is_save_asked = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR2:
            self._is_save_asked = True
            return
        seconds = time.monotonic()
        if self._is_second(number, seconds):
            name = signal.Signals(number).name
            os.write(_STDERR, f"mai: {name} again: this process ends at once, unsaved (exit code 211)\n".encode())
            os._exit(ExitCode.PREEMPTED_UNSAVED)
        self._first_seconds.setdefault(number, seconds)
        self.first_signal = self.first_signal or signal.Signals(number)
        self._end = max(self._end, StopRequest.STOPPED if number == signal.SIGINT else StopRequest.PREEMPTED)

    def _is_second(self, number: int, seconds: float) -> bool:
        """SIGHUP and SIGUSR1 never count: closing a terminal sends several, and Slurm's warning precedes SIGTERM."""
        if number not in (signal.SIGTERM, signal.SIGINT) or number not in self._first_seconds:
            return False
        return number == signal.SIGINT or seconds - self._first_seconds[number] > _SAME_SIGTERM_SECONDS
