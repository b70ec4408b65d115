"""What a run says of itself, as the values of the run folder's files."""

import uuid
from typing import Any

from mai.data.token_roles import Roles
from mai.engine.operations import described
from mai.errors import ExitCode
from mai.model.flops import FLOP_CONVENTION
from mai.model.shapes import num_parameters
from mai.observe.record import RunStarted
from mai.recipe import Recipe, fingerprint, to_dict
from mai.run_folder import DRY_RUN, Terminal, utc_now
from mai.train.session import Session
from mai.train.state import TrainState
from mai.train.versions import commit, versions

_SUGGESTIONS = {
    ExitCode.COMPLETE: "mai generate, mai show",
    ExitCode.PREEMPTED: "start the same command again: it resumes from the checkpoint",
    ExitCode.STOPPED: "start the same command again to go on from the checkpoint",
}


def description(
    recipe: Recipe, session: Session, *, data_fingerprint: str, roles: Roles, old: dict[str, Any]
) -> dict[str, Any]:
    """What runs, for run.json; `old` is what the file said before, whose identity stays."""
    return {
        "run_id": old.get("run_id", uuid.uuid4().hex[:12]),
        "created": old.get("created", utc_now()),
        "recipe_fingerprint": fingerprint(recipe),
        "data_fingerprint": data_fingerprint,
        "versions": versions(),
        "commit": commit(),
        "layout": session.layout.degrees,
        "device": session.device.kind,
        "kernels": described(recipe, session.device.kind),
        "num_parameters": num_parameters(recipe.model),
        "tokens": roles.to_json(),
    }


def started(recipe: Recipe, session: Session, *, run_id: str, step: int) -> RunStarted:
    """What watchers are told before the first step."""
    ranks, kind = session.place.world_size, "CPU" if session.device.kind == "cpu" else "GPU"
    return RunStarted(
        run_id=run_id,
        name=recipe.name,
        folder=session.folder.path,
        attempt=session.attempt,
        step=step,
        steps=recipe.train.steps,
        num_parameters=num_parameters(recipe.model),
        layout=plain_layout(session.layout.degrees),
        device=f"{ranks} {kind} rank{'s' if ranks > 1 else ''}",
        flop_convention=FLOP_CONVENTION,
        recipe=to_dict(recipe),
    )


def status(
    phase: str,
    state: TrainState,
    *,
    steps: int,
    committed_step: int | None,
    save_seconds: float | None,
    tokens_per_second: float | None,
    attempt: int,
    ended: str | None,
) -> dict[str, Any]:
    """Where it stands, for status.json."""
    return {
        "phase": phase,
        "step": state.step,
        "steps": steps,
        "last_committed_step": committed_step,
        "tokens": state.tokens,
        "tokens_per_second": tokens_per_second,
        "heartbeat": utc_now(),
        "attempt": attempt,
        "estimated_save_seconds": save_seconds,
        "ended": ended,
    }


def good_end(code: ExitCode, *, step: int, steps: int, last_committed_step: int | None, dry_run: bool) -> Terminal:
    """What a run that nothing went wrong in says at its end."""
    if dry_run:
        suggestion = "the same command without --dry-run trains"
    elif code is not ExitCode.COMPLETE and last_committed_step is None:
        suggestion = "start the same command again: no step was done"
    else:
        suggestion = _SUGGESTIONS[code]
    return Terminal(
        code=code,
        name=code.name,
        culprit=None,
        phase=DRY_RUN if dry_run else "training",
        step=step,
        last_committed_step=last_committed_step,
        evidence=f"step {step} of {steps}",
        suggestion=suggestion,
    )


def plain_layout(layout: dict[str, int]) -> str:
    """As people say it: "tensor 2, pipeline 2, data 2"."""
    return ", ".join(f"{axis} {degree}" for axis, degree in layout.items())
