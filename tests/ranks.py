"""Real gloo ranks for tests, forked from one warmed server so that a start costs a fraction of a second.

results = on_ranks(8, work, argument)       # work(place, argument) runs on 8 fresh processes; results by rank
"""

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

from launch.port import ADDRESS, reserved_port
from mai.parallel.place import Place

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])


def on_ranks(num_ranks: int, work: Callable[..., Any], *arguments: Any, timeout_seconds: float = 600.0) -> list[Any]:
    """Run `work(place, *arguments)` on every rank; returns what each returned, raises what the first one raised."""
    with reserved_port() as port:
        places = [
            Place(rank=rank, world_size=num_ranks, local_rank=rank, master_address=ADDRESS, master_port=port)
            for rank in range(num_ranks)
        ]
        answers = _answers(places, work, arguments, timeout_seconds)
    failed = [answer for answer in answers if isinstance(answer, RankError)]
    if failed:
        raise failed[0]
    return answers


class RankError(AssertionError):
    """A rank of a test ended with an error; carries its traceback."""


def port_of_own() -> int:
    """A port that no other program is given for as long as this process lives."""
    return _PORTS.enter_context(reserved_port())


_PORTS = ExitStack()


def _answers(places: list[Place], work: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> list[Any]:
    pipes = [CONTEXT.Pipe(duplex=False) for _ in places]
    processes = [
        CONTEXT.Process(target=_rank, args=(work, place, arguments, sender), daemon=True)
        for place, (_, sender) in zip(places, pipes, strict=True)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    try:
        return [_answer(receiver, rank, seconds) for rank, (receiver, _) in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(5)
            process.kill()


def _answer(receiver: Connection, rank: int, timeout_seconds: float) -> Any:
    try:
        if receiver.poll(timeout_seconds):
            return receiver.recv()
    except EOFError:
        return RankError(f"rank {rank} died without a word")
    return RankError(f"rank {rank} gave no answer within {timeout_seconds:.0f} s")


def _rank(work: Callable[..., Any], place: Place, arguments: tuple[Any, ...], sender: Connection) -> None:
    import traceback

    try:
        sender.send(work(place, *arguments))
    except BaseException:  # noqa: BLE001 (the test process has to hear of it)
        sender.send(RankError(f"rank {place.rank}:\n{traceback.format_exc()}"))
