"""The planner's predictions beside published measurements: step time, memory, ranking, feasibility.

    python -m benchmarks.plan_accuracy [--rows FILE.csv] [--json FILE] [--each] [--trust]

`--rows` takes other measurements in the same columns, `--each` prints every row, `--trust` writes the bands that
`mai plan` prints. Every constant was calibrated on other sources than those that it is judged by
(benchmarks/plan_calibration.py), read in its software's source, or assumed. What calibrates a constant that predicts
others, or itself, is marked so.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from benchmarks.ground_truth.rows import GPUS_OF_ONE_NODE, HERE, Row, UnusableError, measured_seconds, number, read
from benchmarks.ground_truth.settings import setting_of
from benchmarks.machine import machine
from benchmarks.markdown import table
from benchmarks.plan_calibration import CALIBRATIONS
from benchmarks.plan_memory_accuracy import Comparison, Rejections, in_words, memory_rows, rejections
from benchmarks.plan_memory_accuracy import lines as memory_lines
from benchmarks.plan_regret import Regret, regrets
from benchmarks.plan_regret import lines as regret_lines
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.plan.time.trust import FILE as TRUST_FILE
from mai.plan.time.trust import Band, kind

NVIDIA = ("NVIDIA dgxc-benchmarking recipes", "NVIDIA Megatron-Bridge performance summary")
MEGATRON_CORE = ("megatron_2024", "megatron_2025", "bridge_2025", "bridge_2026", "bridge_2026_06")
"""Software on mai's engine, which its bands come from as long as mai itself is measured on one GPU only."""
FEWEST_ROWS = 8
"""That make a band."""
PRECISIONS = ("bf16", "fp8")


@dataclass(frozen=True, slots=True)
class Prediction:
    row: str
    source: str
    hardware: str
    gpus: int
    kind: str
    """Software, precision, dense or experts, GPU: as the bands have it."""
    predicted_seconds: float
    measured_seconds: float
    calibrates: str
    """`others` or `itself`: whose prediction a constant is of that was calibrated on this."""

    @property
    def error(self) -> float:
        """Signed, of the measured."""
        return self.predicted_seconds / self.measured_seconds - 1

    @property
    def precision(self) -> str:
        return self.kind.split("/")[1]

    @property
    def has_experts(self) -> bool:
        return self.kind.split("/")[2] == "experts"


def predictions(file: Path) -> tuple[list[Prediction], dict[str, int]]:
    """Of every row that has a time and enough of a layout; and how many have not, by the reason."""
    found, unusable = [], dict[str, int]()
    for row in read(file):
        try:
            setting = setting_of(row)
            measured = measured_seconds(row, setting.architecture)
        except UnusableError as error:
            reason = f"{row['source']}: {error}"
            unusable[reason] = unusable.get(reason, 0) + 1
            continue
        found.append(
            Prediction(
                row=row["id"],
                source=row["source"],
                hardware=row["hardware"],
                gpus=number(row, "gpus"),
                kind=kind(setting),
                predicted_seconds=step_time(setting).seconds,
                measured_seconds=measured,
                calibrates=_calibrates(row, setting),
            )
        )
    return found, unusable


def _calibrates(row: Row, setting: Setting) -> str:
    taken = [calibration for calibration in CALIBRATIONS if calibration.takes(row)]
    files = {file for calibration in taken for constant in calibration.constants for file in constant.files}
    own = {f"plan/software/{setting.software.name}", f"hardware/gpus/{setting.cluster.gpu.name}"}
    return "itself" if files & own else "others" if files else ""


@dataclass(frozen=True, slots=True)
class Goal:
    rows: str
    limit: float
    takes: Callable[[Prediction], bool]
    others: str
    """What other planners reach on such rows."""


TIME_GOALS = (
    Goal(
        "dgxc + Megatron-Bridge, dense bf16",
        0.05,
        lambda one: one.source in NVIDIA and one.precision == "bf16" and not one.has_experts,
        "Calculon -8..+13% (GPT-3 175B)",
    ),
    Goal(
        "dgxc + Megatron-Bridge, dense FP8 and FP4",
        0.08,
        lambda one: one.source in NVIDIA and one.precision != "bf16" and not one.has_experts,
        "Calculon -12..-31% (GPT-3 175B)",
    ),
    Goal(
        "dgxc + Megatron-Bridge, experts",
        0.10,
        lambda one: one.source in NVIDIA and one.has_experts,
        "SimuMax -14..0%, one node, no FP8",
    ),
    Goal(
        "vTrain, several nodes",
        0.08,
        lambda one: one.source.startswith("vTrain") and one.gpus > GPUS_OF_ONE_NODE,
        "Calculon 12.9%, vTrain 14.7%",
    ),
)


def error_figures(errors: Sequence[float]) -> dict[str, float]:
    absolute = [abs(error) for error in errors]
    tenths = quantiles(errors, n=10, method="inclusive") if len(errors) > 1 else [errors[0]] * 9
    return {
        "rows": len(errors),
        "mean_absolute": mean(absolute),
        "median_absolute": median(absolute),
        "mean": mean(errors),
        "tenth": tenths[0],
        "ninetieth": tenths[-1],
    }


def time_goals(found: Iterable[Prediction]) -> Iterator[tuple[Goal, dict[str, float]]]:
    every = list(found)
    for goal in TIME_GOALS:
        errors = [one.error for one in every if goal.takes(one)]
        if errors:
            yield goal, error_figures(errors)


def by_group(found: Iterable[Prediction]) -> dict[tuple[str, ...], dict[str, float]]:
    """By source, kind and scale."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for one in found:
        scale = next(name for most, name in _SCALES if one.gpus <= most)
        groups.setdefault((one.source, one.kind, scale, one.calibrates), []).append(one.error)
    return {group: error_figures(errors) for group, errors in sorted(groups.items())}


_SCALES = ((8, "to 8"), (64, "to 64"), (512, "to 512"), (10**9, "above"))


def bands(found: Sequence[Prediction]) -> dict[str, Band]:
    """Predicted over measured, by kind: of several nodes where enough runs had them.

    For mai, those of NVIDIA's runs on its engine under other software; of experts, in all precisions.
    """
    groups: dict[tuple[str, str], list[Prediction]] = {}
    for one in found:
        software, precision, layers, gpu = one.kind.split("/")
        groups.setdefault((one.kind, f"under {software} in {precision}"), []).append(one)
        if software not in MEGATRON_CORE or one.source not in NVIDIA:
            continue
        for own in PRECISIONS if one.has_experts else (precision,):
            of = f"NVIDIA's on Megatron-Core, {'with experts' if one.has_experts else f'in {precision}'}"
            groups.setdefault((f"mai/{own}/{layers}/{gpu}", of), []).append(one)
    return {
        kind: _band(_of_many_nodes(group), of)
        for (kind, of), group in sorted(groups.items())
        if len(group) >= FEWEST_ROWS
    }


def _of_many_nodes(group: Sequence[Prediction]) -> Sequence[Prediction]:
    many = [one for one in group if one.gpus > GPUS_OF_ONE_NODE]
    return many if len(many) >= FEWEST_ROWS else group


def _band(group: Sequence[Prediction], of: str) -> Band:
    tenths = quantiles([1 + one.error for one in group], n=10, method="inclusive")
    most = max(one.gpus for one in group)
    return Band(rows=len(group), low=round(tenths[0], 3), high=round(tenths[-1], 3), of=f"{of}, on up to {most:,} GPUs")


def result(found: Sequence[Prediction], unusable: Mapping[str, int], file: Path) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "what": "predictions of mai plan beside published measurements",
        "commit": machine()["commit"],
        "date": datetime.now(UTC).date().isoformat(),
        "time": [
            {"of": goal.rows, "goal": goal.limit, "others": goal.others, **figures}
            for goal, figures in time_goals(found)
        ],
        "time_by_group": [
            dict(zip(("source", "kind", "gpus", "calibrates"), group, strict=True)) | figures
            for group, figures in by_group(found).items()
        ],
        "memory": [asdict(one) for one in memory_rows(file)],
        "rejections": asdict(rejections()),
        "regret": [asdict(one) for one in regrets(file)],
        "unusable": dict(unusable),
    }


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """What people read, in Markdown."""
    yield from table(
        ("step time", "rows", "goal", "mean absolute error", "median", "signed mean", "others"),
        (
            (
                one["of"],
                one["rows"],
                f"{one['goal']:.0%}",
                f"{one['mean_absolute']:.1%}",
                f"{one['median_absolute']:.1%}",
                f"{one['mean']:+.1%}",
                one["others"],
            )
            for one in figures["time"]
        ),
    )
    yield ""
    yield from memory_lines(Comparison(**one) for one in figures["memory"])
    yield ""
    yield from regret_lines([Regret(**one) for one in figures["regret"]])
    yield ""
    yield in_words(Rejections(**figures["rejections"]))
    yield ""
    yield "Step time by source."
    yield ""
    yield from table(
        (
            "source",
            "software, precision, layers, GPU",
            "GPUs",
            "calibrates",
            "rows",
            "mean absolute",
            "signed",
            "10..90%",
        ),
        (
            (
                one["source"],
                one["kind"],
                one["gpus"],
                one["calibrates"],
                one["rows"],
                f"{one['mean_absolute']:.1%}",
                f"{one['mean']:+.1%}",
                f"{one['tenth']:+.0%}..{one['ninetieth']:+.0%}",
            )
            for one in figures["time_by_group"]
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=HERE / "measured.csv")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--each", action="store_true", help="print every row")
    parser.add_argument("--trust", action="store_true", help="write the bands that mai plan prints")
    arguments = parser.parse_args()
    found, unusable = predictions(arguments.rows)
    for one in found if arguments.each else ():
        print(f"{one.row} {one.kind} {one.predicted_seconds:.3f} {one.measured_seconds:.3f} {one.error:+.1%}")
    figures = result(found, unusable, arguments.rows)
    print("\n".join(lines(figures)))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.trust:
        written = {kind: asdict(band) for kind, band in bands(found).items()}
        TRUST_FILE.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
