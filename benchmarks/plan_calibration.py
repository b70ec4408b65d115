"""Calibrate the planner's constants on measurements that its accuracy is not reported on, and compare with what ships.

    python -m benchmarks.plan_calibration [--write]

Each constant has its own calibration set, disjoint by source from the rows that benchmarks/plan_accuracy.py judges it
by; a constant that no such set can tell has none here, and its file says what it was assumed from. A constant is the one
with the least mean absolute logarithm of predicted over measured time; constants of one set are searched in turn.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from benchmarks.ground_truth.rows import Row, UnusableError, measured_seconds, read, setting_of
from mai.plan.setting import Setting
from mai.plan.step_time import step_time

PLAN = Path(__file__).parents[1] / "mai" / "plan"

NVIDIA_RECIPES = "NVIDIA dgxc-benchmarking recipes"
NVIDIA_BRIDGE = "NVIDIA Megatron-Bridge performance summary"
NVIDIA_LONG = "NVIDIA NeMo long-sequence performance"
MEGATRON_CI = "Megatron-LM functional-test golden values"
KORTHIKANTI = "Korthikanti et al. 2022 (arXiv 2205.05198)"


@dataclass(frozen=True, slots=True)
class Constant:
    files: tuple[str, ...]
    """Which take the value, below mai/plan."""
    path: str
    """Of its key in them, such as `pace.traffic`."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    constants: tuple[Constant, ...]
    told_by: str
    """The measurements, in words: the source that the files name."""
    takes: Callable[[Row], bool]
    software: str | None = None
    """Whose constants the rows are predicted with, where it is not that of their own source."""


def _software(*names: str) -> tuple[str, ...]:
    return tuple(f"software/{name}.toml" for name in names)


def _gpus(*names: str) -> tuple[str, ...]:
    return tuple(f"hardware/gpus/{name}.toml" for name in names)


def _is_dense(row: Row) -> bool:
    return not row["experts"]


CALIBRATIONS = (
    Calibration(
        (Constant(_gpus("b200", "gb200", "b300"), "sustained_share", 0.5, 1.0),),
        "NeMo's long-sequence runs on B200, those whose layout is printed",
        lambda row: row["source"] == NVIDIA_LONG and row["hardware"] == "B200",
    ),
    Calibration(
        (
            Constant(_gpus("a100_80gb", "a100_40gb"), "sustained_share", 0.7, 1.0),
            Constant(_software("megatron_2022"), "pace.traffic", 1.0, 4.0),
        ),
        "Korthikanti et al. 2022: 22B to 1T on A100",
        lambda row: row["source"] == KORTHIKANTI,
    ),
    Calibration(
        (
            Constant(_software("megatron_2024", "megatron_2025", "megatron_2026"), "pace.step_milliseconds", 10, 100),
            Constant(
                _software("megatron_2024", "megatron_2025", "megatron_2026"), "pace.host_layer_microseconds", 200, 3000
            ),
            Constant(
                _software("megatron_2024", "megatron_2025", "megatron_2026"),
                "pace.host_collective_microseconds",
                20,
                1000,
            ),
        ),
        "Megatron-LM's functional tests of dense toys on 8 H100s",
        lambda row: (
            row["source"] == MEGATRON_CI and row["hardware"] == "H100" and _is_dense(row) and row["gpus"] == "8"
        ),
    ),
    Calibration(
        (
            Constant(
                _software("megatron_2024", "megatron_2025", "megatron_2026"),
                "pace.host_expert_layer_microseconds",
                500,
                20_000,
            ),
        ),
        "Megatron-LM's functional tests of toys with experts on 8 H100s",
        lambda row: (
            row["source"] == MEGATRON_CI and row["hardware"] == "H100" and not _is_dense(row) and row["gpus"] == "8"
        ),
    ),
    Calibration(
        (Constant(_software("megatron_2024"), "hides.tensor", 0.0, 1.0),),
        "Megatron-Bridge's dense runs on H100",
        lambda row: row["source"] == NVIDIA_BRIDGE and row["hardware"] == "H100" and _is_dense(row),
        software="megatron_2024",
    ),
    Calibration(
        (Constant(_software("megatron_2025", "megatron_2026", "megatron_2026_06"), "hides.tensor", 0.0, 1.0),),
        "dgxc-benchmarking's dense Megatron runs on H100",
        lambda row: row["source"] == NVIDIA_RECIPES and _is_dense(row) and "JAX" not in row["notes"],
        software="megatron_2025",
    ),
)
