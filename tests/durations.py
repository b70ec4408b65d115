"""How long each test took when it last ran: `make slowest` lists the twenty that took longest.

A pytest plugin and a command; tests/conftest.py loads the one, the Makefile calls the other.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILE = HERE / ".durations.json"
NUM_SLOWEST = 20


class Durations:
    """Writes them down when a session ends; in the process that hears of all tests, whichever ran them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Set-up and tear-down count.
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        FILE.write_text(json.dumps(merged(read(), self._seconds), indent=0))


def read() -> dict[str, float]:
    """Seconds by test, of those that are still there."""
    seconds = json.loads(FILE.read_text()) if FILE.exists() else {}
    return {test: took for test, took in seconds.items() if _is_there(test)}


def _is_there(test: str) -> bool:
    file, _, name = test.partition("::")
    path = HERE.parent / file
    return path.is_file() and f"def {name.partition('[')[0].rpartition('::')[2]}(" in path.read_text()


def merged(old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    """What is new, and what is old of tests that did not run this time."""
    return old | new


def slowest(seconds: dict[str, float], number: int) -> list[str]:
    """As lines, longest first."""
    chosen = sorted(seconds, key=lambda test: seconds[test], reverse=True)[:number]
    return [f"{seconds[test]:7.1f} s  {test}" for test in chosen]


if __name__ == "__main__":
    lines = slowest(read(), NUM_SLOWEST) or ["nothing has run yet: make test"]
    sys.stdout.write("\n".join(lines) + "\n")
