"""From how every rank ended to how the job ended: whose fault, which exit code, what to do next. Pure.

One failing rank takes all others down with it within milliseconds, each with an error of its own. The job's code is
the culprit's: a reason that no retry can mend goes before all others, a kill from outside before what it caused, and
a rank that only lost its peer never hides why.
"""

import os
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mai.errors import ExitCode

GRACEFUL = (ExitCode.COMPLETE, ExitCode.PREEMPTED, ExitCode.STOPPED)
"""Ends that are nobody's fault, the least telling first."""

# Nobody sends these from outside: the process hurt itself.
_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}

SUGGESTIONS = {
    ExitCode.CRASH: "Read the traceback in the log; if it is a fault of mai, report it with the run folder's run.json.",
    ExitCode.USAGE: "Correct the command; `mai --help` lists what there is.",
    ExitCode.CONFIG: "Correct what is named above; `mai check` tells in a second whether a recipe holds.",
    ExitCode.DATA: "Correct the data named above, or prepare it again with `mai prepare`.",
    ExitCode.CHECKPOINT: "Restore the checkpoint named above, or start in a new run folder.",
    ExitCode.ENVIRONMENT: "Correct this machine's set-up as named above; a retry here ends the same way.",
    ExitCode.REFUSED: "Remove what is named above; mai does not go on past it.",
    ExitCode.BUSY: "Wait for the other process to end or stop it, or choose another run folder.",
    ExitCode.DIVERGED: "Look at the loss with `mai show`; a lower learning rate or other data is the usual way out.",
    ExitCode.STOPPED: "Start the same command again to go on from the last committed checkpoint.",
    ExitCode.PARITY: "Do not train with this layout; report what is named above with the certificate.",
    ExitCode.PREEMPTED: "Start the same command again to go on from the checkpoint just saved.",
    ExitCode.PREEMPTED_UNSAVED: "Start the same command again; it goes on from the last committed checkpoint.",
    ExitCode.PEER_LOST: "Find out who ended the rank (dmesg, the scheduler's log), then start the same command again.",
    ExitCode.HANG: "Read the stacks in the log, then start the same command again.",
    ExitCode.NODE_BAD: "Leave out the machine named above, then start the same command again.",
    ExitCode.STORAGE: "Make room on the disk or mend it, then start the same command again.",
    ExitCode.OUT_OF_MEMORY: "Use more ranks, a smaller parallel.micro_batch_sequences, or a machine with more memory.",
    ExitCode.RENDEZVOUS: "Check that every rank started and reaches MASTER_ADDR:MASTER_PORT, then start again.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    pid: int
    code: ExitCode
    seconds: float
    """When it failed, as it says itself, else when its end was seen; on the monotonic clock."""
    is_killed: bool
    """Ended by a signal, not by an exit of its own."""
    reason: str
    """One line or a few, for people."""
    evidence: str
    """The message with its traceback, else the last lines of the log."""


def code_and_reason(wait_status: int, *, relayed: Collection[int], is_oom_kill: bool) -> tuple[ExitCode, str]:
    """What an end without a word means.

    Args:
        wait_status: as from os.waitpid.
        relayed: signals that the launcher passed on to the rank.
        is_oom_kill: the kernel's out-of-memory killer acted since the last look.
    """
    exit_code = os.waitstatus_to_exitcode(wait_status)
    if exit_code >= 0:
        known = exit_code in set(ExitCode)
        return ExitCode(exit_code) if known else ExitCode.CRASH, f"ended with exit code {exit_code}"
    number = -exit_code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL and is_oom_kill:
        return ExitCode.OUT_OF_MEMORY, "killed by the kernel, because the machine or the job's share ran out of memory"
    if number in relayed:
        return ExitCode.PREEMPTED_UNSAVED, f"ended by {name} before it was ready to save"
    return ExitCode.CRASH if number in _FAULTS else ExitCode.PEER_LOST, f"killed by {name}"


def job_code(ends: Sequence[RankEnd]) -> ExitCode:
    """The exit code that tells the truth about the whole job."""
    culprit = find_culprit(ends)
    return culprit.code if culprit else max((end.code for end in ends), key=GRACEFUL.index)


def find_culprit(ends: Sequence[RankEnd]) -> RankEnd | None:
    """The rank whose end caused the others'; None where nobody failed."""
    return min((end for end in ends if end.code not in GRACEFUL), key=_blame, default=None)


def _blame(end: RankEnd) -> tuple[int, float]:
    if ExitCode.CONFIG <= end.code < ExitCode.PREEMPTED:
        return 0, end.seconds
    if end.is_killed and end.code is not ExitCode.CRASH:
        return 1, end.seconds
    # A victim's own runtime may abort it, and its error may come untranslated: among crashes the first one counts.
    return 3 if end.code is ExitCode.PEER_LOST else 2, end.seconds


def paragraph(code: ExitCode, culprit: RankEnd | None, *, log: str) -> str:
    """What a person reads at the end; safe for a terminal, whatever the message quotes."""
    head = f"mai: {code.name} (exit code {int(code)})"
    lines = [f"{head}: every rank ended in good order."]
    if culprit:
        first, *rest = culprit.reason.splitlines() or [""]
        lines = [f"{head}: rank {culprit.rank} (pid {culprit.pid}): {first}", *(f"  {line}" for line in rest)]
        lines.append(f"  log: {log}")
    lines.append(f"  next: {SUGGESTIONS[code]}")
    return "\n".join("".join(map(_printable, line)) for line in lines) + "\n"


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
