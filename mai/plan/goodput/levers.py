"""What if: goodput against one thing at a time, and which of them buys most."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from mai.plan.goodput.expected import (
    NEARLY_ALWAYS,
    PlannedRun,
    best_goodput,
    enough_spares,
    mean_restart_seconds,
    run_money,
)
from mai.plan.goodput.failures import Failures, Restart
from mai.plan.quantities import counted

_FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Point:
    at: float
    """In the unit of its lever; where the plan is, among others."""
    goodput: float


@dataclass(frozen=True, slots=True)
class Move:
    """What one move of a lever buys."""

    what: str
    """In words."""
    goodput: float
    points: float
    """What the move adds to goodput, in percentage points."""
    money: float | None
    """That the whole run costs less: below 0 where it costs more; None is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lever:
    name: str
    unit: str
    at: float
    """Where the plan is."""
    points: list[Point]
    move: Move | None = None


def levers(failures: Failures, run: PlannedRun) -> list[Lever]:
    """Each as a curve at the best intervals, with what one move of it buys; the one that buys most first.

    A move is half the time of a restart, half the stall of a save, or as many spares as are nearly always enough, which
    may be fewer. Another size of cluster is not bought for goodput: it has a curve and no move.
    """
    restart = mean_restart_seconds(failures)
    enough = enough_spares(failures, run, confidence=NEARLY_ALWAYS)
    now = best_goodput(failures, run)
    moves = [
        Lever(
            name="restart",
            unit="seconds",
            at=restart,
            points=[Point(restart * each, best_goodput(_faster(failures, each), run)) for each in _FACTORS],
            move=_move("a restart in half the time", now, run, best_goodput(_faster(failures, _HALF), run), run),
        ),
        Lever(
            name="stall",
            unit="seconds",
            at=failures.checkpoint.far_stall_seconds,
            points=[
                Point(failures.checkpoint.far_stall_seconds * each, best_goodput(_shorter(failures, each), run))
                for each in _FACTORS
            ],
            move=_move("saves in half the time", now, run, best_goodput(_shorter(failures, _HALF), run), run),
        ),
        _spares(failures, run, enough=enough, now=now),
    ]
    moves.sort(key=_bought, reverse=True)
    return [*moves, Lever(name="size", unit="GPUs", at=run.gpus, points=list(_sizes(failures, run, enough)))]


def _bought(lever: Lever) -> tuple[float, float]:
    """In money where it has a price."""
    assert lever.move is not None
    return lever.move.money or 0.0, lever.move.points


def _spares(failures: Failures, run: PlannedRun, *, enough: int, now: float) -> Lever:
    numbers = sorted({0, enough // 4, enough // 2, enough, run.spare_nodes, 2 * enough})

    def with_spares(nodes: int) -> PlannedRun:
        return replace(run, spare_nodes=nodes)

    moved = with_spares(enough)
    return Lever(
        name="spares",
        unit="nodes",
        at=run.spare_nodes,
        points=[Point(nodes, best_goodput(failures, with_spares(nodes))) for nodes in numbers],
        move=_move(counted(enough, "spare node"), now, run, best_goodput(failures, moved), moved),
    )


def _sizes(failures: Failures, run: PlannedRun, enough: int) -> Iterable[Point]:
    """Each with as many spares as are enough for it."""
    for factor in _SIZES:
        gpus = max(run.gpus_per_node, round(run.gpus * factor))
        sized = replace(run, gpus=gpus)
        spares = enough if factor == 1 else enough_spares(failures, sized, confidence=NEARLY_ALWAYS)
        yield Point(gpus, best_goodput(failures, replace(sized, spare_nodes=spares)))


def _faster(failures: Failures, factor: float) -> Failures:
    steps = {name: factor * seconds for name, seconds in asdict(failures.restart).items()}
    return replace(failures, restart=Restart(**steps))


def _shorter(failures: Failures, factor: float) -> Failures:
    stalls = {name: factor * seconds for name, seconds in asdict(failures.checkpoint).items()}
    return replace(failures, checkpoint=replace(failures.checkpoint, **stalls))


def _move(what: str, now: float, run: PlannedRun, then: float, changed: PlannedRun) -> Move:
    before, after = run_money(run, now), run_money(changed, then)
    money = None if before is None or after is None else before - after
    return Move(what, then, points=100 * (then - now), money=money)
