"""How far a predicted step time can be trusted: what the same prediction was off by where a run was measured."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from mai.plan.published import AMONG_THE_OTHERS
from mai.plan.setting.setting import Setting

FILE = Path(__file__).parent / "trust.json"
"""Written by benchmarks/plan_accuracy.py: for each `kind`, the fields of a Band."""


@dataclass(frozen=True, slots=True)
class Band:
    """Where predicted over measured step times lie."""

    rows: int
    """Measurements."""
    low: float
    """The tenth percentile."""
    high: float
    """The ninetieth."""
    of: str
    """Whose runs they are, in words."""

    def seconds(self, predicted: float) -> tuple[float, float]:
        """Between which step times eight of ten runs would lie."""
        return predicted / self.high, predicted / self.low


@dataclass(frozen=True, slots=True)
class Trust:
    """How far off a predicted step time may be."""

    band: Band = field(metadata=AMONG_THE_OTHERS)
    between_seconds: tuple[float, float]
    """Eight of ten runs."""


def kind(setting: Setting) -> str:
    """Settings that are off alike: `mai/bf16/dense/h100`."""
    layers = "experts" if setting.architecture.has_experts else "dense"
    return f"{setting.software.name}/{setting.precision}/{layers}/{setting.cluster.gpu.name}"


def band(setting: Setting, file: Path = FILE) -> Band | None:
    """None where nothing of this kind was measured."""
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8")).get(kind(setting))
    return None if found is None else Band(**found)


def trust(setting: Setting, predicted_seconds: float) -> Trust | None:
    """None where nothing of this kind was measured."""
    known = band(setting)
    return None if known is None else Trust(known, known.seconds(predicted_seconds))
