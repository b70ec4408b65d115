"""Calibrate the planner's constants on measurements that its accuracy is not judged by, and compare with what ships.

    python -m benchmarks.plan_calibration [--write]

A constant's calibration set has no source in common with the rows that it is judged by (benchmarks/plan_accuracy.py):
what predicts dgxc-benchmarking's table is calibrated on Megatron-Bridge's, and the other way round. A constant that no
set can tell is not here: its file says what it was measured by or assumed from. The best value has the least mean
absolute logarithm of predicted over measured time; the constants of one set are searched in turn.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from statistics import mean

from benchmarks.ground_truth.models import architecture_of
from benchmarks.ground_truth.rows import Row, UnusableError, measured_seconds, read
from benchmarks.ground_truth.settings import setting_of
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time

MAI = Path(__file__).parents[1] / "mai"
ROUNDS, STEPS = 3, 24

_SINCE_2024 = ("megatron_2024", "megatron_2025", "bridge_2025", "bridge_2026")


@dataclass(frozen=True, slots=True)
class Constant:
    files: tuple[str, ...]
    """Which hold it, below mai, without their ending."""
    table: str
    """`gpu` for a GPU's own numbers."""
    key: str
    low: float
    high: float

    def within(self, setting: Setting, value: float) -> Setting:
        """The setting with this value."""
        if self.table == "gpu":
            gpu = replace(setting.cluster.gpu, **{self.key: value})
            return replace(setting, cluster=replace(setting.cluster, gpu=gpu))
        table = replace(getattr(setting.software, self.table), **{self.key: value})
        return replace(setting, software=replace(setting.software, **{self.table: table}))


@dataclass(frozen=True, slots=True)
class Calibration:
    constants: tuple[Constant, ...]
    told_by: str
    """The set in words, as the files name it."""
    takes: Callable[[Row], bool]


def _software(names: tuple[str, ...], table: str, key: str, low: float, high: float) -> Constant:
    return Constant(tuple(f"plan/software/{name}" for name in names), table, key, low, high)


def _is_dense(row: Row) -> bool:
    return not row["experts"] and not row["notes"].startswith(("MaxText", "Paxml"))


def _is_toy(row: Row) -> bool:
    return row["source"].startswith("Megatron-LM functional") and row["hardware"] == "H100" and row["gpus"] == "8"


CALIBRATIONS = (
    Calibration(
        (Constant(("hardware/gpus/b200", "hardware/gpus/gb200"), "gpu", "sustained_share", 0.4, 1.0),),
        "NeMo's long sequences in FP8 on B200",
        lambda row: row["hardware"] == "B200" and row["source"].startswith("NVIDIA NeMo long"),
    ),
    Calibration(
        (
            Constant(("hardware/gpus/a100_80gb", "hardware/gpus/a100_40gb"), "gpu", "sustained_share", 0.7, 1.0),
            _software(("megatron_2022",), "pace", "traffic", 1.0, 4.0),
        ),
        "Korthikanti et al. 2022",
        lambda row: row["source"].startswith("Korthikanti"),
    ),
    Calibration(
        (
            _software(_SINCE_2024, "pace", "step_milliseconds", 10, 100),
            _software(_SINCE_2024, "pace", "host_layer_microseconds", 200, 3000),
            _software(_SINCE_2024, "pace", "host_collective_microseconds", 20, 800),
        ),
        "Megatron-LM's functional tests of dense toys on 8 H100s",
        lambda row: _is_toy(row) and _is_dense(row),
    ),
    Calibration(
        (_software(_SINCE_2024, "pace", "host_expert_layer_microseconds", 500, 12_000),),
        "Megatron-LM's functional tests of toys with experts on 8 H100s",
        lambda row: _is_toy(row) and not _is_dense(row),
    ),
    Calibration(
        (_software(("megatron_2024",), "hides", "tensor", 0.0, 1.0),),
        "Megatron-Bridge's dense runs on H100",
        lambda row: row["source"].startswith("NVIDIA Megatron-Bridge") and row["hardware"] == "H100" and _is_dense(row),
    ),
    Calibration(
        (_software(("bridge_2025", "bridge_2026", "bridge_2026_06"), "hides", "tensor", 0.0, 1.0),),
        "dgxc-benchmarking's dense Megatron runs on H100",
        lambda row: row["source"].startswith("NVIDIA dgxc") and row["hardware"] == "H100" and _is_dense(row),
    ),
)


Runs = list[tuple[Setting, float]]


def runs(calibration: Calibration) -> Runs:
    """The set's settings, and their measured step times."""
    found = []
    for row in read():
        if not calibration.takes(row):
            continue
        try:
            found.append((setting_of(row), measured_seconds(row, architecture_of(row))))
        except UnusableError:
            continue
    return found


def error(settings: Runs, values: dict[Constant, float]) -> float:
    """Mean absolute logarithm of predicted over measured."""
    logarithms = []
    for setting, measured in settings:
        changed = setting
        for constant, value in values.items():
            changed = constant.within(changed, value)
        logarithms.append(abs(log(step_time(changed).seconds / measured)))
    return mean(logarithms)


def calibrated(calibration: Calibration, settings: Runs) -> dict[Constant, float]:
    """The best values, on a grid that grows finer around the best so far."""
    values = {constant: (constant.low + constant.high) / 2 for constant in calibration.constants}
    for turn in range(ROUNDS):
        for constant in calibration.constants:
            reach = (constant.high - constant.low) / 2 / 4**turn
            errors = {
                value: error(settings, values | {constant: value})
                for value in _grid(constant, around=values[constant], reach=reach)
            }
            values[constant] = min(errors, key=errors.__getitem__)
    return values


def _grid(constant: Constant, *, around: float, reach: float) -> Iterator[float]:
    low, high = max(constant.low, around - reach), min(constant.high, around + reach)
    for step in range(STEPS + 1):
        yield low + (high - low) * step / STEPS


def shipped(file: Path, key: str) -> float:
    """What the file has for the key."""
    found = _line(key).search(file.read_text(encoding="utf-8"))
    assert found is not None, f"{file} has no {key}"
    return float(found[2])


def write(file: Path, key: str, value: float, told_by: str) -> None:
    """The value and its source, in place of what the file has."""
    text = file.read_text(encoding="utf-8")
    line = f'{key} = {{ value = {value:g}, source = "benchmarks/plan_calibration.py: {told_by}" }}'
    file.write_text(_line(key).sub(line, text), encoding="utf-8")


def _line(key: str) -> re.Pattern[str]:
    return re.compile(rf"^({key} = (?:\{{ value = )?)([\d.e-]+).*$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the values into the files")
    arguments = parser.parse_args()
    for calibration in CALIBRATIONS:
        settings = runs(calibration)
        values = calibrated(calibration, settings)
        print(f"{calibration.told_by}: {len(settings)} rows, off by {error(settings, values):.1%}")
        for constant, value in values.items():
            rounded = float(f"{value:.2g}")
            before = {shipped(MAI / f"{file}.toml", constant.key) for file in constant.files}
            print(f"    {constant.key}: {rounded:g}, shipped {', '.join(map('{:g}'.format, sorted(before)))}")
            for file in constant.files if arguments.write else ():
                write(MAI / f"{file}.toml", constant.key, rounded, calibration.told_by)


if __name__ == "__main__":
    main()
