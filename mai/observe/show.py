"""`mai show`: what ran, where it stands, what happened. Reads the run folder and nothing else; works while it runs.

`summary` says it in plain JSON values, `render` (page.py) draws that. A damaged file costs what it held and is named
under "problems"; the rest is still told.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeGuard, TypeVar

from mai.errors import ExitCode, MaiError, UsageError
from mai.observe.page import render
from mai.observe.record import OWN_NAMES
from mai.run_folder import RunFolder, Terminal

__all__ = ["render", "summary"]

_MAX_EVENTS = 200
_MAX_CURVE_POINTS = 1_000
_CHECKPOINT = re.compile(r"step-(\d{10})")
_CURVES = ("loss", "held_out_bits_per_byte")

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


def summary(folder: Path) -> dict[str, Any]:
    """Everything that `render` shows, as plain JSON values; raises UsageError if there is no run there."""
    run_folder = RunFolder(folder)
    _refuse_if_no_run(run_folder)
    reader = _Reader()
    attempts = reader.read(run_folder.attempts) or []
    terminals = [reader.read(run_folder.read_terminal, number) for number in attempts]
    records = reader.read(lambda: list(run_folder.read_metrics())) or []
    owner = reader.read(run_folder.is_busy)
    return {
        "folder": str(folder),
        "state": _state(owner, terminals),
        "owner": owner,
        **{name: reader.read(run_folder.read_json, f"{name}.json") or {} for name in ("run", "recipe", "status")},
        "checkpoint_steps": reader.read(_checkpoint_steps, run_folder.checkpoints) or [],
        "attempts": [
            {"attempt": number, "terminal": asdict(terminal) if terminal else None}
            for number, terminal in zip(attempts, terminals, strict=True)
        ],
        "events": (reader.read(_events, run_folder, attempts) or [])[-_MAX_EVENTS:],
        "latest": records[-1] if records else None,
        "curves": {name: _curve(records, name) for name in (*_CURVES, *_logged(records))},
        "problems": reader.problems,
    }


class _Reader:
    """Reads what can be read, and remembers what could not."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(
        self, reader: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Value | None:
        try:
            return reader(*args, **kwargs)
        except MaiError as error:
            self.problems.append(str(error))
            return None


def _refuse_if_no_run(run_folder: RunFolder) -> None:
    path = run_folder.path
    if (path / "run.json").exists() or (path / "recipe.json").exists() or run_folder.attempts():
        return
    what = "holds no run (no run.json)" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    runs = sorted(file.parent for place in (path, path.parent) for file in place.glob("*/run.json"))
    nearest = f"; runs nearby: {', '.join(map(str, runs[:8]))}" if runs else "; mai train --run FOLDER makes one"
    raise UsageError(f"{path} {what}{nearest}")


def _state(owner: dict[str, Any] | None, terminals: list[Terminal | None]) -> str:
    if owner is not None:
        return "running"
    if not terminals:
        return "never started"
    return "ended" if terminals[-1] else "died"


def _checkpoint_steps(checkpoints: Path) -> list[int]:
    names = [entry.name for entry in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return sorted(int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match)


def _events(run_folder: RunFolder, attempts: list[int]) -> list[dict[str, Any]]:
    events = ({"attempt": number, **event} for number in attempts for event in run_folder.read_events(number))
    return [event for event in events if not _is_routine(event)]


def _is_routine(event: dict[str, Any]) -> bool:
    """A rank that starts, or ends in good order: thousands in a large run, and nothing to learn from."""
    if event.get("kind") == "rank_ended":
        return event.get("code") in (ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.PREEMPTED)
    return event.get("kind") == "rank_started"


def _curve(records: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of the finite values; in a long run, means of equally many neighbours."""
    points = [(float(record["step"]), value) for record in records if _is_finite(value := record.get(name))]
    size = math.ceil(len(points) / _MAX_CURVE_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _logged(records: list[dict[str, Any]]) -> list[str]:
    """The names under which a script logged numbers, in their order."""
    return list(dict.fromkeys(name for record in records for name in record if name not in OWN_NAMES))


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
