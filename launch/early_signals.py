"""Signals before there are ranks: nothing is there to save."""

import signal
import sys
from types import FrameType

from mai.errors import ExitCode


def end_unsaved_when_told() -> None:
    """Until the ranks run, a signal that asks for an end ends this process, and one that asks for a save is void."""

    def end(number: int, _: FrameType | None) -> None:
        sys.stderr.write(
            f"mai: PREEMPTED_UNSAVED (exit code 211): {signal.Signals(number).name} before the ranks ran; what was "
            "committed before is untouched.\n  next: start the same command again\n"
        )
        # An exception and no exit, so that a child that prepares the data is ended too.
        raise SystemExit(ExitCode.PREEMPTED_UNSAVED)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP
            signal.signal(number, end)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
