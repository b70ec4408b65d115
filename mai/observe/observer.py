"""Hands what happens to the sinks. A sink may fail or hang; the run neither stops nor slows.

    loop -> Observer -> one queue and one thread a sink -> Sink

Handing over costs microseconds whatever the sink does behind its queue. A sink that fails is reported once and asked
again with the next record; one that fails to start is left out; one that falls too far behind loses records, counted.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from mai.log import log
from mai.observe.record import Logged, RunEnded, RunStarted, StepRecord

_MAX_WAITING = 10_000
# Covers a first start of wandb (5 s measured) in a run that ends before it is up.
_CLOSE_SECONDS = 10.0


class Sink(Protocol):
    """One watcher. Its calls come in order, from one thread that is its own."""

    name: str

    def run_started(self, run: RunStarted) -> None: ...
    def record(self, record: StepRecord) -> None: ...
    def logged(self, logged: Logged) -> None: ...
    def event(self, kind: str, fields: dict[str, Any]) -> None: ...
    def run_ended(self, end: RunEnded) -> None: ...
    def close(self) -> None: ...


class Observer:
    """Fans out to all sinks; ranks without sinks have an observer too, which costs nothing. Whoever makes one
    closes it."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._posts = [_Post(sink) for sink in sinks]

    def run_started(self, run: RunStarted) -> None:
        for post in self._posts:
            post.hand_over(partial(post.start, run))

    def record(self, record: StepRecord) -> None:
        for post in self._posts:
            post.hand_over(partial(post.sink.record, record))

    def logged(self, logged: Logged) -> None:
        """Behind the record of its step."""
        for post in self._posts:
            post.hand_over(partial(post.sink.logged, logged))

    def event(self, kind: str, /, **fields: Any) -> None:
        """Say that something happened: a save, a fault, a retry."""
        for post in self._posts:
            post.hand_over(partial(post.sink.event, kind, fields))

    def run_ended(self, end: RunEnded) -> None:
        for post in self._posts:
            post.hand_over(partial(post.sink.run_ended, end))

    def close(self) -> None:
        """Let the sinks finish, for a few seconds at most; may be called twice."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for post in self._posts:
            post.ask_to_close()
        for post in self._posts:
            post.wait_until(deadline)
        self._posts = []


class _Post:
    """One sink at the end of its own queue and thread."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._num_failed = 0
        self._num_lost = 0
        self._is_dropped = False
        self._last_error = ""
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a sink that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def hand_over(self, call: Callable[[], None]) -> None:
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(call)
            return
        if not self._num_lost:
            log.warning("sink %s is %d calls behind and loses records; the run goes on", self.sink.name, _MAX_WAITING)
        self._num_lost += 1

    def start(self, run: RunStarted) -> None:
        try:
            self.sink.run_started(run)
        except BaseException:
            self._is_dropped = True
            raise

    def ask_to_close(self) -> None:
        self._waiting.put(None)

    def wait_until(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        num_lost = self._num_lost + self._waiting.qsize()
        if self._thread.is_alive() or num_lost:
            log.warning("sink %s did not take everything: %d calls are missing there", self.sink.name, num_lost)
        if self._num_failed and not self._is_dropped:
            log.warning("sink %s failed on %d calls, last: %s", self.sink.name, self._num_failed, self._last_error)

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            if not self._is_dropped:
                self._try(call)
        self._try(self.sink.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a sink does; rich exits on a broken pipe)
            self._num_failed += 1
            self._last_error = f"{type(error).__name__}: {error}"
            if self._num_failed == 1:
                fate = "is left out of this run" if self._is_dropped else "will be asked again"
                log.warning("sink %s failed and %s; the run goes on: %s", self.sink.name, fate, self._last_error)
