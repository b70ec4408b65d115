"""What it costs to trust the planner's ranking: its pick among measured layouts, over the best of them.

    python -m benchmarks.plan_regret [--rows FILE.csv] [--each]

A group is one model, batch and number of GPUs, of which a source measured several layouts. (nanotron's small model ties
its output layer to its embedding where it has no pipeline; that is a part of the layout here.) The planner picks by the
step time that it predicts, and knows nothing of the measurements. Where a layout was measured more than once, its
median counts.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles

from benchmarks.ground_truth.rows import GPUS_OF_ONE_NODE, HERE, Row, UnusableError, measured_seconds, read
from benchmarks.ground_truth.settings import setting_of
from benchmarks.markdown import table
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.recipe import ParallelConfig

_ALIKE = ("model", "layers", "hidden", "hardware", "gpus", "seq", "global_batch", "precision")
_SOURCES = ("HF nanotron ultra-scale playbook sweep", "vTrain validation set (KAIST)")
"""That measured many layouts of one model on the same GPUs."""
_FEWEST_LAYOUTS = 4


@dataclass(frozen=True, slots=True)
class Regret:
    """Of one group."""

    source: str
    model: str
    gpus: int
    batch_sequences: int
    layouts: int
    regret: float
    """Measured time of the planner's pick over that of the fastest, less 1."""
    regret_of_five: float
    """The same of the fastest among the planner's first five."""
    typical: float
    """The same of the median layout, which is what no planning costs."""


def regrets(file: Path = HERE / "measured.csv") -> list[Regret]:
    """Of every group with at least four layouts; vTrain's on a single node are a source of their own."""
    groups: dict[tuple[str, ...], list[tuple[Row, Setting]]] = {}
    for row in read(file):
        if row["source"] in _SOURCES and (setting := _setting(row)) is not None:
            groups.setdefault((_source(row), *(row[name] for name in _ALIKE)), []).append((row, setting))
    found = (_regret(source, rows) for (source, *_), rows in sorted(groups.items()))
    return [regret for regret in found if regret.layouts >= _FEWEST_LAYOUTS]


def _setting(row: Row) -> Setting | None:
    try:
        return setting_of(row)
    except UnusableError:
        return None


def _source(row: Row) -> str:
    source = row["source"]
    if not source.startswith("vTrain"):
        return source
    return f"{source}, {'one node' if int(row['gpus']) <= GPUS_OF_ONE_NODE else 'several nodes'}"


def _regret(source: str, rows: list[tuple[Row, Setting]]) -> Regret:
    measured: dict[ParallelConfig, list[float]] = {}
    predicted: dict[ParallelConfig, float] = {}
    for row, setting in rows:
        measured.setdefault(setting.parallel, []).append(measured_seconds(row, setting.architecture))
        predicted.setdefault(setting.parallel, step_time(setting).seconds)
    seconds = {layout: median(times) for layout, times in measured.items()}
    fastest = min(seconds.values())
    ranked = [seconds[layout] for layout in sorted(predicted, key=predicted.__getitem__)]
    row, setting = rows[0]
    return Regret(
        source=source,
        model=row["model"],
        gpus=setting.layout.world_size,
        batch_sequences=setting.tokens // setting.sequence_length,
        layouts=len(ranked),
        regret=ranked[0] / fastest - 1,
        regret_of_five=min(ranked[:5]) / fastest - 1,
        typical=median(ranked) / fastest - 1,
    )


def lines(found: list[Regret]) -> Iterator[str]:
    """What people read, in Markdown."""
    heads = ("source", "groups", "mean regret", "median", "90th percentile", "best of its first five")
    groups: dict[str, list[Regret]] = {}
    for one in found:
        groups.setdefault(one.source, []).append(one)
    yield from table((*heads, "the median layout"), (_cells(source, group) for source, group in groups.items()))


def _cells(source: str, groups: list[Regret]) -> tuple[object, ...]:
    each = [one.regret for one in groups]
    ninetieth = quantiles(each, n=10, method="inclusive")[-1] if len(each) > 1 else each[0]
    return (
        source,
        len(groups),
        f"{mean(each):.1%}",
        f"{median(each):.1%}",
        f"{ninetieth:.1%}",
        f"{mean(one.regret_of_five for one in groups):.1%}",
        f"{median(one.typical for one in groups):.0%}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=HERE / "measured.csv")
    parser.add_argument("--each", action="store_true", help="print every group")
    arguments = parser.parse_args()
    found = regrets(arguments.rows)
    if arguments.each:
        for one in found:
            print(f"{one.source}: {one.model}, {one.gpus} GPUs, {one.batch_sequences} sequences: {one.layouts} layouts")
            print(f"    regret {one.regret:.1%}, of its first five {one.regret_of_five:.1%}")
    for line in lines(found):
        print(line)


if __name__ == "__main__":
    main()
