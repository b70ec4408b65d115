"""The observer: sinks get everything in order, and whatever they do, the run goes on at its own pace."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mai.log import log
from mai.observe import observer as observer_module
from mai.observe.observer import Observer
from mai.observe.record import Logged, RunEnded, RunStarted, StepRecord
from tests.unit.observe.samples import run_started, step_record


class Notebook:
    """A sink that writes down what it is told, and misbehaves as asked."""

    name = "notebook"

    def __init__(
        self, *, fails_at: tuple[int, ...] = (), fails_to_start: bool = False, hang_seconds: float = 0
    ) -> None:
        self.told: list[Any] = []
        self._fails_at = fails_at
        self._fails_to_start = fails_to_start
        self._hang_seconds = hang_seconds

    def run_started(self, run: RunStarted) -> None:
        if self._fails_to_start:
            raise ConnectionError("no server")
        self.told.append(run.name)

    def record(self, record: StepRecord) -> None:
        time.sleep(self._hang_seconds)
        if record.step in self._fails_at:
            raise SystemExit(1) if record.step == 4 else ValueError(f"no room for step {record.step}")
        self.told.append(record.step)

    def logged(self, logged: Logged) -> None:
        self.told.append((logged.step, logged.values))

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        self.told.append((kind, fields))

    def run_ended(self, end: RunEnded) -> None:
        self.told.append(end.name)

    def close(self) -> None:
        self.told.append("closed")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def watch(*sinks: Notebook, steps: int) -> None:
    with closing(Observer(sinks)) as observer:
        observer.run_started(run_started(Path("runs/try"), steps=steps))
        for step in range(1, steps + 1):
            observer.record(step_record(step))
        observer.logged(Logged(step=steps, attempt=1, time="", values={"mine": 0.5}))
        observer.event("saved", step=steps)
        observer.run_ended(RunEnded(code=0, name="COMPLETE", step=steps, message=""))


def test_every_sink_is_told_everything_in_order(warnings: list[str]) -> None:
    sinks = [Notebook(), Notebook()]
    watch(*sinks, steps=3)
    for sink in sinks:
        assert sink.told == ["tiny", 1, 2, 3, (3, {"mine": 0.5}), ("saved", {"step": 3}), "COMPLETE", "closed"]
    assert warnings == []


def test_a_sink_that_raises_is_reported_once_asked_again_and_counted(warnings: list[str]) -> None:
    failing, healthy = Notebook(fails_at=(2, 3, 4)), Notebook()
    watch(failing, healthy, steps=5)
    assert failing.told[:3] == ["tiny", 1, 5]
    assert healthy.told[1:6] == [1, 2, 3, 4, 5]
    assert len(warnings) == 2
    assert (
        "sink notebook failed and will be asked again; the run goes on: ValueError: no room for step 2" in warnings[0]
    )
    assert "failed on 3 calls, last: SystemExit: 1" in warnings[1]


def test_a_sink_that_cannot_start_is_left_out(warnings: list[str]) -> None:
    failing = Notebook(fails_to_start=True)
    watch(failing, steps=3)
    assert failing.told == ["closed"]
    assert len(warnings) == 1
    assert "left out of this run; the run goes on: ConnectionError: no server" in warnings[0]


@pytest.mark.alone
def test_a_sink_that_hangs_costs_the_run_nothing(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer_module, "_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(observer_module, "_MAX_WAITING", 50)
    hanging = Notebook(hang_seconds=60)
    start = time.perf_counter()
    watch(hanging, steps=100)
    assert time.perf_counter() - start < 2
    assert "loses records; the run goes on" in warnings[0]
    assert "did not take everything" in warnings[1]


def test_an_observer_without_sinks_may_be_told_and_closed_twice() -> None:
    observer = Observer([])
    observer.record(step_record(1))
    observer.close()
    observer.close()
