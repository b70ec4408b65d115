"""The block `scheduler` as lines: the gist of it; JSON has all sizes, codes and families."""

from collections.abc import Iterator

from mai.plan.quantities import amount, counted, duration
from mai.plan.scheduler.saving import Grace
from mai.plan.scheduler.scheduler_answers import SchedulerAnswers
from mai.plan.scheduler.stopping import StopCost, Stopping
from mai.plan.telling.typesetting import wrapped

_SHOWN_MINUTES = 30
"""Which row of the table of stops is shown: the stop that comes so many minutes after a save."""


def lines(found: SchedulerAnswers, *, currency: str | None) -> Iterator[str]:
    """The sentences, behind what each is of."""
    for head, told in sentences(found, currency=currency):
        yield from wrapped(f"{head:<13}{told}")


def sentences(found: SchedulerAnswers, *, currency: str | None) -> Iterator[tuple[str, str]]:
    """Sizes, grace, the cost of a stop, placement, each behind what it is of; nothing stands before the same."""
    order, *others = found.placement.sentences
    yield "sizes", _sizes(found)
    yield "grace", _grace(found.grace)
    yield "a stop", _stop(found.stopping, currency)
    yield "placement", order
    yield from (("", sentence) for sentence in others)


def _sizes(found: SchedulerAnswers) -> str:
    sizes = found.world_sizes
    fitting = [size.gpus for size in sizes if size.fits]
    legal = f"this layout and batch train on {counted(len(sizes), 'number')} of GPUs"
    if not fitting:
        return f"{legal}, and fit on none of them"
    return f"{legal}, and fit on {len(fitting):,} of them, from {fitting[0]:,} to {fitting[-1]:,}"


def _grace(grace: Grace) -> str:
    if grace.seconds is None:
        return "unknown: the cluster states no storage.write_gb_per_second"
    before, save = amount(grace.seconds, "s"), amount(grace.save_seconds, "s")
    return f"{before} before the end: a step, and one and a half saves of {save}"


def _stop(stopping: Stopping, currency: str | None) -> str:
    row = next(row for row in stopping.rows if row.minutes == _SHOWN_MINUTES)

    def told(costs: StopCost) -> str:
        if costs.gpu_hours is None:
            return "unknown"
        money = "" if costs.money is None or currency is None else f", {amount(costs.money, currency)}"
        return f"{amount(costs.gpu_hours, 'GPU hours')}{money}"

    return (
        f"{_SHOWN_MINUTES} minutes after a save: {told(row.without_grace.cost)}, with grace {told(row.with_grace)}; "
        f"assumed: {duration(stopping.restart_seconds)} to start again"
    )
