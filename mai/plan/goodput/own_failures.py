"""A measured run of our own as a list of failures: what it shows, and as assumptions what it cannot show."""

from collections import Counter
from dataclasses import fields
from statistics import mean

from mai.errors import ExitCode, PlanError
from mai.plan.goodput.failures import Cause, Checkpoint, Failures, Restart, failure_names, load_failures, restart_of
from mai.plan.goodput.measured import Measured
from mai.plan.goodput.poisson import poisson_interval
from mai.plan.quantities import counted, duration

_CONFIDENCE = 0.9
_LIKE = "llama3"
"""Whose repairs are assumed: a run folder does not know where its nodes went."""


def own_failures(run: Measured) -> Failures:
    """How often this run was interrupted by what, and what that cost it; raises PlanError where it never was."""
    counts = Counter(code for _, code in run.interruptions)
    if not counts:
        raise PlanError(_none(run))
    restart, restart_sources = _restart(run)
    checkpoint, checkpoint_sources = _checkpoint(run)
    like = load_failures(_LIKE)
    return Failures(
        name=run.name,
        describes=_describes(run),
        gpu_hours_between=run.gpu_hours / len(run.interruptions),
        near_share=0.0,
        repair=like.repair,
        restart=restart,
        checkpoint=checkpoint,
        causes={code.name.lower(): Cause(count=count, breaks=_breaks(code)) for code, count in counts.items()},
        sources={
            "gpu_hours_between": f"measured: {len(run.interruptions)} interruptions in {run.gpu_hours:,.4g} GPU hours",
            "near_share": "mai saves to storage alone",
            "slow_nodes": "assumption: none; no line of a run says which node was slow",
            **{f"repair.{each.name}": _assumed(like, f"repair.{each.name}") for each in fields(like.repair)},
            **{f"causes.{code.name.lower()}.count": "measured" for code in counts},
            **{f"causes.{code.name.lower()}.breaks": f"our reading of exit code {code:d}" for code in counts},
            **restart_sources,
            **checkpoint_sources,
        },
    )


def _describes(run: Measured) -> str:
    """In words, with how far off the rate may be."""
    number = len(run.interruptions)
    fewest, most = poisson_interval(number, _CONFIDENCE)
    return (
        f"{run.name}: {counted(number, 'interruption')} in {duration(run.wall_seconds)} on "
        f"{counted(run.gpus, 'GPU')}, which leaves open one in {duration(run.wall_seconds / most)} to one in "
        f"{duration(run.wall_seconds / fewest)} there, with {_CONFIDENCE:.0%} confidence"
    )


def _none(run: Measured) -> str:
    _, most = poisson_interval(0, _CONFIDENCE)
    return (
        f"{run.name}: no interruption in {run.gpu_hours:,.4g} GPU hours, which shows with {_CONFIDENCE:.0%} confidence "
        f"no more than that one comes in {run.gpu_hours / most:,.4g} or more; use a list of others: "
        f"{', '.join(failure_names())}"
    )


def _breaks(code: ExitCode) -> str:
    """A code says whether a node must go, and no code speaks of a rack."""
    return "node" if code is ExitCode.NODE_BAD else "nothing"


def _restart(run: Measured) -> tuple[Restart, dict[str, str]]:
    """In two steps, which is all that can be told apart."""
    if not run.relaunch_seconds:
        design = "assumption: mai's design budget, as the run did not start again"
        return Restart(), {f"restart.{each.name}": design for each in fields(Restart)}
    # The first start of all loads nothing.
    found = restart_of(detect_seconds=mean(run.relaunch_seconds), start_processes_seconds=mean(run.start_seconds[1:]))
    within = "measured within restart.detect_seconds and restart.start_processes_seconds"
    return found, {
        **{f"restart.{each.name}": within for each in fields(Restart)},
        "restart.detect_seconds": "measured: from an interruption to the next start, on average",
        "restart.start_processes_seconds": "measured: from a start to its first step, the load included, on average",
    }


def _checkpoint(run: Measured) -> tuple[Checkpoint, dict[str, str]]:
    key = "checkpoint.far_stall_seconds"
    if run.stall_seconds is not None:
        found = Checkpoint(near_stall_seconds=0.0, far_stall_seconds=run.stall_seconds)
        return found, {key: "measured: pauses between steps, evaluations included, over the number of saves"}
    like = load_failures(_LIKE)
    return like.checkpoint, {key: _assumed(like, key)}


def _assumed(like: Failures, key: str) -> str:
    return f"assumption, as for {like.name}: {like.sources[key]}"
