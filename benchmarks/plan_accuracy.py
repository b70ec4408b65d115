"""The planner's predictions beside published measurements, by source, precision and scale.

    python -m benchmarks.plan_accuracy [--rows FILE.csv] [--json FILE] [--each]

`--rows` takes more measurements in the same columns. Constants were calibrated on other sources than those of the goals
(benchmarks/plan_calibration.py); sources that calibrate some constant are marked.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import mean, median

from benchmarks.ground_truth.rows import (
    HERE,
    Row,
    UnusableError,
    measured_seconds,
    read,
    setting_of,
    software_name,
)
from mai.plan.step_time import step_time

SHARES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Prediction:
    row: str
    source: str
    software: str
    hardware: str
    gpus: int
    precision: str
    kind: str
    predicted_seconds: float
    measured_seconds: float

    @property
    def error(self) -> float:
        return self.predicted_seconds / self.measured_seconds - 1


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    sources: tuple[str, ...]
    precision: tuple[str, ...]
    kind: str
    least_gpus: int
    mean_error: float
    others: str
    """What other planners reached on such rows."""


NVIDIA = ("NVIDIA dgxc-benchmarking recipes", "NVIDIA Megatron-Bridge performance summary")
GOALS = (
    Goal("dgxc + Megatron-Bridge, dense bf16", NVIDIA, ("bf16",), "dense", 1, 0.05, "Calculon -8..+13% (GPT-3 175B)"),
    Goal("dgxc + Megatron-Bridge, dense FP8", NVIDIA, ("fp8", "fp4"), "dense", 1, 0.08, "Calculon -12..-31% (GPT-3)"),
    Goal("dgxc + Megatron-Bridge, experts", NVIDIA, ("bf16", "fp8", "fp4"), "experts", 1, 0.10, "nobody"),
    Goal("vTrain, several nodes", ("vTrain validation set (KAIST)",), ("bf16",), "dense", 9, 0.08, "Calculon 12.9%"),
)
