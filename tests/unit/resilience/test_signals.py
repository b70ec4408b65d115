"""What a rank does with each signal, with real signals to this very process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mai.resilience.signals import StopRequest, StopSignals

ROOT = Path(__file__).parents[3]


def send(number: signal.Signals) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "request_"),
    [
        (signal.SIGTERM, StopRequest.PREEMPTED),
        (signal.SIGHUP, StopRequest.PREEMPTED),
        (signal.SIGUSR1, StopRequest.PREEMPTED),
        (signal.SIGINT, StopRequest.STOPPED),
        (signal.SIGUSR2, StopRequest.SAVE),
    ],
)
def test_a_signal_becomes_a_request(number: signal.Signals, request_: StopRequest) -> None:
    with StopSignals() as signals:
        assert signals.request() is StopRequest.NONE
        send(number)
        assert signals.request() is request_
        assert signals.first_signal == (None if request_ is StopRequest.SAVE else number)


def test_the_highest_request_counts_and_the_first_signal_is_remembered() -> None:
    with StopSignals() as signals:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            send(number)
        assert signals.request() is StopRequest.STOPPED
        assert signals.first_signal is signal.SIGTERM


def test_requests_are_numbers_whose_maximum_all_ranks_can_agree_on() -> None:
    assert StopRequest.NONE < StopRequest.SAVE < StopRequest.PREEMPTED < StopRequest.STOPPED
    assert [int(request) for request in StopRequest] == [0, 1, 2, 3]


def test_a_save_is_asked_for_anew_after_it_was_begun() -> None:
    with StopSignals() as signals:
        send(signal.SIGUSR2)
        signals.forget_save()
        assert signals.request() is StopRequest.NONE
        send(signal.SIGUSR2)
        assert signals.request() is StopRequest.SAVE


def test_afterwards_all_handlers_are_as_before() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals():
        pass
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            send(signal.SIGHUP)
            assert signals.request() is StopRequest.NONE
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("numbers", "exit_code"),
    [
        ("INT INT", 211),
        ("TERM wait TERM", 211),
        ("TERM TERM", 210),  # Slurm's and the launcher's copy of the same one
        ("USR1 TERM", 210),  # Slurm's warning, then the end of the time limit
        ("HUP HUP", 210),
        ("INT TERM", 210),
    ],
)
def test_the_same_signal_again_ends_at_once(numbers: str, exit_code: int) -> None:
    script = (
        "import signal, sys, time\n"
        "from mai.resilience.signals import StopSignals\n"
        "with StopSignals():\n"
        "    for word in sys.argv[1].split():\n"
        "        time.sleep(2.1) if word == 'wait' else signal.raise_signal(signal.Signals['SIG' + word])\n"
        "sys.exit(210)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, numbers], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == exit_code
    assert ("again: this process ends at once, unsaved (exit code 211)" in done.stderr) == (exit_code == 211)


def test_sigquit_shows_every_stack_and_goes_on() -> None:
    script = (
        "import signal, threading\n"
        "from mai.resilience.signals import StopSignals\n"
        "started, done = threading.Event(), threading.Event()\n"
        "def beside():\n"
        "    started.set(); done.wait()\n"
        "threading.Thread(target=beside, daemon=True).start()\n"
        "started.wait()\n"
        "def waiting_for_a_peer():\n"
        "    signal.raise_signal(signal.SIGQUIT)\n"
        "with StopSignals():\n"
        "    waiting_for_a_peer()\n"
        "print('went on')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "waiting_for_a_peer" in ended.stderr
    assert "beside" in ended.stderr, "of every thread"
    assert ended.stdout == "went on\n"
