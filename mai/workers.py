"""The same work on many things, in several processes of this machine, answered in the order of the things."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mai.errors import MaiError

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

# Things under way for each process: enough to keep it busy, few enough to bound memory.
_AHEAD = 4


class Workers:
    """So many processes, until the end of the `with` block; one is this process itself."""

    def __init__(self, number: int) -> None:
        # Spawned, not forked: the parent holds threads (torch's, the tokenizer's, a progress bar's), which a fork
        # breaks. They start when there is work for them.
        context = multiprocessing.get_context("spawn")
        self._number = number
        self._pool = ProcessPoolExecutor(number, mp_context=context, initializer=_obey_parent) if number > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, work: Callable[[Thing], Answer], things: Sequence[Thing]) -> Iterator[Answer]:
        """`work` of each."""
        if self._pool is None or len(things) == 1:
            yield from map(work, things)
            return
        pending: deque[Future[Answer]] = deque()
        try:
            for thing in things:
                pending.append(self._pool.submit(work, thing))
                if len(pending) > self._number * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise MaiError(
                "a worker process died: killed, out of memory, or never started. Try fewer workers; in a script of "
                'your own, call from under if __name__ == "__main__", or use the command line'
            ) from error


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and never outlive it: a pool's process does not notice a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
