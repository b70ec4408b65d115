"""What a run writes about itself: the run folder's records, by its first rank."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mai.engine.operations import described
from mai.errors import ExitCode
from mai.model.flops import FLOP_CONVENTION
from mai.model.shapes import num_parameters
from mai.observe.record import RunStarted
from mai.recipe import fingerprint, to_dict
from mai.run_folder import Terminal, utc_now

if TYPE_CHECKING:
    from mai.train.run import Run

_SUGGESTIONS = {
    ExitCode.COMPLETE: "mai generate, mai show",
    ExitCode.PREEMPTED: "start the same command again: it resumes from the checkpoint",
    ExitCode.STOPPED: "start the same command again to go on from the checkpoint",
}
_LIBRARIES = ("mai", "torch", "megatron-core", "numpy", "tokenizers", "pydantic")


def description(run: Run, old: dict[str, Any]) -> dict[str, Any]:
    """What runs, for run.json; `old` is what the file said before, whose identity stays."""
    return {
        "run_id": old.get("run_id", uuid.uuid4().hex[:12]),
        "created": old.get("created", utc_now()),
        "recipe_fingerprint": fingerprint(run.recipe),
        "data_fingerprint": run.dataset.manifest.fingerprint,
        "versions": versions(),
        "commit": commit(),
        "layout": run.layout.degrees,
        "device": run.device.kind,
        "kernels": described(run.recipe, run.device.kind),
        "num_parameters": num_parameters(run.recipe.model),
        "end_token": run.dataset.manifest.end_token,
    }


def started(run: Run) -> RunStarted:
    """What watchers are told before the first step; after run.json was written."""
    ranks, kind = run.place.world_size, "CPU" if run.device.kind == "cpu" else "GPU"
    return RunStarted(
        run_id=(run.folder.read_json("run.json") or {})["run_id"],
        name=run.recipe.name,
        folder=run.folder.path,
        attempt=run.attempt,
        step=run.state.step,
        steps=run.recipe.train.steps,
        num_parameters=num_parameters(run.recipe.model),
        layout=plain_layout(run.layout.degrees),
        device=f"{ranks} {kind} rank{'s' if ranks > 1 else ''}",
        flop_convention=FLOP_CONVENTION,
        recipe=to_dict(run.recipe),
    )


def status(run: Run, phase: str, *, tokens_per_second: float | None) -> dict[str, Any]:
    """Where it stands, for status.json."""
    return {
        "phase": phase,
        "step": run.state.step,
        "steps": run.recipe.train.steps,
        "last_committed_step": run.committed_step,
        "tokens": run.state.tokens,
        "tokens_per_second": tokens_per_second,
        "heartbeat": utc_now(),
        "attempt": run.attempt,
        "estimated_save_seconds": run.save_seconds,
    }


def versions() -> dict[str, str | None]:
    """Versions of everything that computes, and of this code's commit where it runs from a clone."""
    found: dict[str, str | None] = {name: _version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The clone's commit, with "+changes" when the tree differs from it; None outside a clone."""
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists():
        return None
    try:
        revision = _git(clone, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(clone, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def good_end(code: ExitCode, *, step: int, steps: int, last_committed_step: int | None) -> Terminal:
    """What a run that nothing went wrong in says at its end."""
    return Terminal(
        code=code,
        name=code.name,
        culprit=None,
        phase="training",
        step=step,
        last_committed_step=last_committed_step,
        evidence=f"step {step} of {steps}",
        suggestion=_SUGGESTIONS[code],
    )


def plain_layout(layout: dict[str, int]) -> str:
    """As people say it: "tensor 2, pipeline 2, data 2"."""
    return ", ".join(f"{axis} {degree}" for axis, degree in layout.items())


def changed_training(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Which fields of two resolved recipes differ and decide what is trained, one line each."""
    old_fields, new_fields = dict(_fields(old)), dict(_fields(new))
    return [
        f"{path}={new_fields.get(path)}: this run was started with {old_fields.get(path)}"
        for path in sorted(old_fields.keys() | new_fields.keys())
        if path.partition(".")[0] in _TRAINED and path not in _MAY_MOVE and old_fields.get(path) != new_fields.get(path)
    ]


# The other sections decide who computes, what is watched and what is kept, not what is trained.
_TRAINED = {"model", "data", "optimizer", "train", "precision", "objective"}
# What the data is, is in its fingerprint, which the checkpoint holds.
_MAY_MOVE = {"data.folder"}


def _fields(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, entry in value.items():
        found += _fields(entry, f"{prefix}{name}.") if isinstance(entry, dict) else [(f"{prefix}{name}", entry)]
    return found
