"""What every rank must pass before the first step: its kernels compute what their twins do.

A kernel that some ranks get wrong is their nodes' fault; one that all get wrong is the build's. A card or a disk that
is full is neither's.
"""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mai.collectives import collect_json, first_rank_does
from mai.engine.device import Device
from mai.engine.self_test import disagreements
from mai.errors import BadNodeError, EnvironmentMismatchError, ExitCode, MaiError, error_of
from mai.recipe import Recipe
from mai.train.foreign_errors import as_mai_error
from mai.train.session import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one rank found."""

    host: str
    wrong: Sequence[str] = ()
    """A line for each operation that is not its twin."""
    code: int | None = None
    """What kept the rank from finding out, as an exit code; None where nothing did."""
    message: str = ""
    """That error's."""


def test_kernels(recipe: Recipe, session: Session) -> None:
    """All ranks must call, and all raise alike: BadNodeError, EnvironmentMismatchError, or what kept one from it."""
    if recipe.kernels == "reference":
        return
    started, timeout_seconds = time.perf_counter(), session.timeout_seconds
    # Over the rendezvous store: a card that failed a launch takes part in no collective.
    own = asdict(_report(recipe, session.device))
    reports = [Report(**each) for each in collect_json(own, key="kernels", timeout_seconds=timeout_seconds) or ()]
    first_rank_does(lambda: judge(reports), key="kernels/verdict", timeout_seconds=timeout_seconds)
    session.event("kernels tested", seconds=round(time.perf_counter() - started, 3))


def _report(recipe: Recipe, device: Device) -> Report:
    host = platform.node()
    try:
        return Report(host=host, wrong=disagreements(recipe, device.torch_device, known=as_mai_error))
    except MaiError as error:
        return Report(host=host, code=error.code, message=str(error))


def judge(reports: Sequence[Report]) -> None:
    """By rank. Raises the error of whose fault it is, if anything is wrong."""
    for rank, report in enumerate(reports):
        # Before the others' findings: what this rank would have found says whose fault those are.
        if report.code is not None:
            raise error_of(ExitCode(report.code), f"rank {rank} on {report.host}: {report.message}")
    failed = {rank: report for rank, report in enumerate(reports) if report.wrong}
    if not failed:
        return
    if len(failed) == len(reports):
        raise EnvironmentMismatchError(
            "a bad build: on every rank kernels compute something else than plain torch:\n"
            + "\n".join(failed[0].wrong)
            + "\nbuild it again (make setup), or train with kernels=reference"
        )
    hosts = ", ".join(sorted({report.host for report in failed.values()}))
    raise BadNodeError(
        f"a bad node: {len(failed)} of {len(reports)} ranks compute something else than plain torch; "
        f"leave out {hosts}:\n"
        + "\n".join(f"rank {rank} on {report.host}: {line}" for rank, report in failed.items() for line in report.wrong)
    )
