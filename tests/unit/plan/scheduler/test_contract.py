"""The contract says what the code does: every exit code has an action, every signal its effect."""

import os
import signal

import pytest

from mai.errors import ExitCode
from mai.plan.scheduler.contract import ACTIONS, SIGNALS, action, exit_codes
from mai.resilience.signals import StopRequest, StopSignals

EFFECTS = {
    StopRequest.SAVE: "save at the end of the step, go on",
    StopRequest.PREEMPTED: f"save at the end of the step, exit {int(ExitCode.PREEMPTED)}",
    StopRequest.STOPPED: f"save at the end of the step, exit {int(ExitCode.STOPPED)}",
}


def test_every_exit_code_has_an_action_that_its_number_promises() -> None:
    assert [one["code"] for one in exit_codes()] == [int(code) for code in ExitCode]
    for code in ExitCode:
        assert action(code) in ACTIONS
        assert (action(code) == "stop") == (code in (ExitCode.USAGE, *range(80, 94)))


@pytest.mark.parametrize("name", [name for name in SIGNALS if name != "SIGQUIT"])
def test_a_signal_does_what_is_promised(name: str) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), getattr(signal, name))
        assert SIGNALS[name].split(";")[0] == EFFECTS[signals.request()]
