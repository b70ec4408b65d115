"""What every rank must pass before the first step: its kernels compute what their twins do.

A kernel that some ranks get wrong is their nodes' fault; one that all get wrong is the build's.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mai.collectives import collect_json, first_rank_does
from mai.engine.self_test import disagreements
from mai.errors import BadNodeError, EnvironmentMismatchError

if TYPE_CHECKING:
    from mai.train.run import Run


def test_kernels(run: Run, *, timeout_seconds: float) -> None:
    """All ranks must call, and all raise alike: BadNodeError or EnvironmentMismatchError."""
    if run.recipe.kernels == "reference":
        return
    started = time.perf_counter()
    own = [platform.node(), disagreements(run.recipe, run.device.torch_device)]
    # Over the rendezvous store: a card that failed a launch takes part in no collective.
    reports = collect_json(own, key="kernels", timeout_seconds=timeout_seconds)
    first_rank_does(lambda: judge(reports or []), key="kernels/verdict", timeout_seconds=timeout_seconds)
    if run.is_first_rank:
        run.folder.event(run.attempt, "kernels tested", seconds=round(time.perf_counter() - started, 3))


def judge(reports: Sequence[tuple[str, Sequence[str]]]) -> None:
    """By rank: its host, and what it found wrong. Raises the error of whose fault it is, if anything is."""
    failed = {rank: (host, found) for rank, (host, found) in enumerate(reports) if found}
    if not failed:
        return
    if len(failed) == len(reports):
        _, found = failed[0]
        raise EnvironmentMismatchError(
            "a bad build: on every rank kernels compute something else than plain torch:\n"
            + "\n".join(found)
            + "\nbuild it again (make setup), or train with kernels=reference"
        )
    hosts = ", ".join(sorted({host for host, _ in failed.values()}))
    raise BadNodeError(
        f"a bad node: {len(failed)} of {len(reports)} ranks compute something else than plain torch; "
        f"leave out {hosts}:\n"
        + "\n".join(f"rank {rank} on {host}: {line}" for rank, (host, found) in failed.items() for line in found)
    )
