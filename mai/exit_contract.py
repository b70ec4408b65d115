"""What a scheduler may rely on: what each exit code asks it to do, and which signals a run obeys."""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.errors import ExitCode

ACTIONS: Mapping[str, str] = {
    "finish": "the run is complete",
    "stop": "somebody must correct something first",
    "retry": "start it again three times at most, as long as newer checkpoints appear",
    "requeue": "start it again as it is",
    "requeue_elsewhere": "start it again without the machines that terminal-<attempt>.json names",
    "hold": "start it again once the disk or the memory has room",
}

_NOT_BY_NUMBER = {
    ExitCode.COMPLETE: "finish",
    ExitCode.CRASH: "retry",
    ExitCode.NODE_BAD: "requeue_elsewhere",
    ExitCode.STORAGE: "hold",
    ExitCode.OUT_OF_MEMORY: "hold",
}

SIGNALS: Mapping[str, str] = {
    "SIGTERM": "save at the end of the step, exit 210; a second one: exit 211 at once, unsaved",
    "SIGHUP": "save at the end of the step, exit 210",
    "SIGUSR1": "save at the end of the step, exit 210",
    "SIGINT": "save at the end of the step, exit 87; a second one: exit 211 at once, unsaved",
    "SIGUSR2": "save at the end of the step, go on",
    "SIGQUIT": "write every thread's stack to stderr, go on",
}
"""As mai/resilience/signals.py handles them."""


def action(code: ExitCode) -> str:
    """One of ACTIONS."""
    return _NOT_BY_NUMBER.get(code, "requeue" if code.is_retryable else "stop")


@dataclass(frozen=True, slots=True)
class End:
    """A way in which a run ends, with what the scheduler should do."""

    code: int
    name: str
    action: str


def exit_codes() -> list[End]:
    """Every one."""
    return [End(int(code), code.name, action(code)) for code in ExitCode]


@dataclass(frozen=True, slots=True)
class Signal:
    signal: str
    effect: str


def signals() -> list[Signal]:
    """Those that a run obeys."""
    return [Signal(signal, effect) for signal, effect in SIGNALS.items()]
