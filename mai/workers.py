"""The same work on many things, in several processes of this machine, answered in the order of the things."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mai.errors import MaiError

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

# Things under way for each process: enough to keep it busy, few enough to bound memory.
_AHEAD = 4


def in_order(
    work: Callable[[Thing], Answer], things: Sequence[Thing], *, workers: int
) -> Generator[Answer, None, None]:
    """`work` of each; in this process where one is enough. Close it, and the others end."""
    workers = min(workers, len(things))
    if workers <= 1:
        yield from map(work, things)
        return
    # Spawned, not forked: the parent holds threads (torch's, the tokenizer's, a progress bar's), which a fork breaks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_obey_parent) as pool:
        pending: deque[Future[Answer]] = deque()
        try:
            for thing in things:
                pending.append(pool.submit(work, thing))
                if len(pending) > workers * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise MaiError(
                "a worker process died: killed, out of memory, or never started. Try fewer workers; in a script of "
                'your own, call from under if __name__ == "__main__", or use the command line'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and never outlive it: a pool's process does not notice a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
