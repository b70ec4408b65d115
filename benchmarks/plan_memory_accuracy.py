"""How near the planner's memory comes to what was measured, source by source.

    python -m benchmarks.plan_memory_accuracy

Nothing in it is calibrated: every number of `mai/plan/software/*.toml` is read from that software's source.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from benchmarks.ground_truth.megatron_ci import ci_setting_of, is_tiny, with_fused_loss
from benchmarks.ground_truth.nanotron import nanotron_setting_of
from benchmarks.ground_truth.rows import HERE, Row, UnusableError, read
from benchmarks.ground_truth.settings import setting_of
from benchmarks.markdown import table
from mai.plan.memory.memory import memory

_GIB = 2**30

_MEAN_RESERVED_OVER_ALLOCATED = 1.045
"""Of 152 ranks of SimuMax's B200 runs."""


@dataclass(frozen=True, slots=True)
class Comparison:
    source: str
    row: str
    """Its id; of several ranks with the rank."""
    predicted_gib: float
    measured_gib: float

    @property
    def error(self) -> float:
        """Signed, of the measured."""
        return self.predicted_gib / self.measured_gib - 1


@dataclass(frozen=True, slots=True)
class Rejections:
    """Of nanotron's layouts: those that the planner says do not fit or cannot run, of those that failed and ran."""

    failed: int
    failed_rejected: int
    ran: int
    ran_rejected: int


def memory_rows(file: Path = HERE / "measured.csv", *, only: str = "") -> Iterator[Comparison]:
    """Every measured memory that can be predicted; `only`: how their source begins."""
    for row in read(file):
        if not row["source"].startswith(only):
            continue
        compare = next((how for source, how in _SOURCES.items() if row["source"].startswith(source)), None)
        if compare is None or not row["memory_gb"]:
            continue
        try:
            yield from compare(row)
        except UnusableError:
            continue


def rejections() -> Rejections:
    ran = [row for row in read() if row["source"].startswith("HF nanotron")]
    failed = list(read(HERE / "failed_layouts.csv"))
    return Rejections(
        failed=len(failed),
        failed_rejected=sum(map(is_rejected, failed)),
        ran=len(ran),
        ran_rejected=sum(map(is_rejected, ran)),
    )


def is_rejected(row: Row) -> bool:
    """A layout of nanotron's."""
    try:
        return not memory(nanotron_setting_of(row)).fits
    except UnusableError:
        return True


def _simumax(row: Row) -> Iterator[Comparison]:
    """Allocated, every rank. The loss is Transformer Engine's (SimuMax docs/strategy.md, cross_entropy_loss_fusion)."""
    setting = setting_of(row)
    setting = replace(setting, software=with_fused_loss(setting.software))
    stages = memory(setting).stages
    ranks = re.findall(r"(\d):([\d.]+)/[\d.]+", row["notes"])
    for rank, measured in ranks:
        predicted = stages[int(rank) * len(stages) // len(ranks)].allocated_bytes
        yield Comparison("SimuMax B200, every rank", f"{row['id']}:{rank}", predicted / _GIB, float(measured))


def _megatron_ci(row: Row) -> Iterator[Comparison]:
    """Allocated, of the last rank, at its largest over a whole run with a real router."""
    setting = ci_setting_of(row)
    kind = "toy models" if is_tiny(row) else "experts" if setting.architecture.has_experts else "dense"
    predicted = memory(setting).stages[-1].allocated_bytes
    yield Comparison(f"Megatron-LM CI, {kind}", row["id"], predicted / _GIB, float(row["memory_gb"]))


def _korthikanti(row: Row) -> Iterator[Comparison]:
    """The activations of a formula, of the first stage."""
    found = re.search(r"activations ([\d.]+)", row["notes"])
    assert found is not None, row["notes"]
    predicted = memory(setting_of(row)).stages[0].items_bytes["activations"]
    yield Comparison("Korthikanti, activations", row["id"], predicted / _GIB, float(found[1]))


def _nanotron(row: Row) -> Iterator[Comparison]:
    """Taken as reserved, because layouts that allocate the same differ by gigabytes; the source does not say."""
    predicted = memory(nanotron_setting_of(row)).largest.allocated_bytes * _MEAN_RESERVED_OVER_ALLOCATED
    yield Comparison("nanotron sweep", row["id"], predicted / _GIB, float(row["memory_gb"]))


_SOURCES: dict[str, Callable[[Row], Iterable[Comparison]]] = {
    "SimuMax": _simumax,
    "Megatron-LM functional": _megatron_ci,
    "Korthikanti": _korthikanti,
    "HF nanotron": _nanotron,
}


def lines(rows: Iterable[Comparison]) -> Iterator[str]:
    """What people read, in Markdown."""
    errors: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row.source):
        errors.setdefault(row.source, []).append(row.error)
    yield from table(
        ("Source", "Figures", "Mean absolute error", "Mean error", "Most under", "Most over"),
        ((source, len(each), *map("{:+.2%}".format, _figures(each))) for source, each in errors.items()),
    )


def _figures(errors: list[float]) -> tuple[float, ...]:
    return mean(map(abs, errors)), mean(errors), min(errors), max(errors)


def in_words(counts: Rejections) -> str:
    """How well layouts that failed are told from those that ran."""
    return (
        f"nanotron: {counts.failed_rejected} of {counts.failed} layouts that failed are rejected "
        f"({counts.failed_rejected / counts.failed:.1%}), {counts.ran_rejected} of {counts.ran} that ran "
        f"({counts.ran_rejected / counts.ran:.1%})"
    )


def main() -> None:
    print("\n".join(lines(memory_rows())))
    print(f"\n{in_words(rejections())}")


if __name__ == "__main__":
    main()
