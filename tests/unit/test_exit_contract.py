"""The contract says what the code does: every exit code has an action, every signal its effect."""

import os
import re
import signal

import pytest

from mai.errors import ExitCode
from mai.exit_contract import ACTIONS, SIGNALS, action, exit_codes
from mai.resilience.signals import StopRequest, StopSignals
from tests.house.sources import ROOT

EFFECTS = {
    StopRequest.SAVE: "save at the end of the step, go on",
    StopRequest.PREEMPTED: f"save at the end of the step, exit {int(ExitCode.PREEMPTED)}",
    StopRequest.STOPPED: f"save at the end of the step, exit {int(ExitCode.STOPPED)}",
}


def test_every_exit_code_has_an_action_that_its_number_promises() -> None:
    assert [one.code for one in exit_codes()] == [int(code) for code in ExitCode]
    for code in ExitCode:
        assert action(code) in ACTIONS
        assert (action(code) == "stop") == (code in (ExitCode.USAGE, *range(80, 94)))


def test_the_guide_lists_the_codes_of_each_action() -> None:
    guide = (ROOT / "docs" / "guides" / "schedulers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d, to]+) \|", guide, re.MULTILINE))
    assert rows.pop("stop") == "2, 80 to 93"
    expected = {name: [one.code for one in exit_codes() if one.action == name] for name in ACTIONS}
    assert {name: [int(code) for code in codes.split(",")] for name, codes in rows.items()} == {
        name: codes for name, codes in expected.items() if name != "stop"
    }


@pytest.mark.parametrize("name", [name for name in SIGNALS if name != "SIGQUIT"])
def test_a_signal_does_what_is_promised(name: str) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), getattr(signal, name))
        assert SIGNALS[name].split(";")[0] == EFFECTS[signals.request()]
