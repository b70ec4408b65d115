"""Where an attempt goes on: after the run's newest whole checkpoint, from another run's weights, or from the start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mai.checkpoint import resume
from mai.checkpoint.manifest import Manifest
from mai.engine.engine import Engine
from mai.errors import CheckpointError
from mai.log import log
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.train.session import Session
from mai.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Restored:
    state: TrainState
    committed_step: int | None
    """None where the run has no checkpoint yet."""


def restore(engine: Engine, recipe: Recipe, session: Session, *, data_fingerprint: str) -> Restored:
    """Fill the engine, and say where the run stands; all ranks must call.

    Raises CheckpointError when checkpoints exist and none is whole, or the data is not what the run has read."""

    def leave_out(step: int, damage: str) -> None:
        session.event("checkpoint left out", step=step, damage=damage)
        if session.is_first_rank:
            log.warning("checkpoint of step %d is left out: %s", step, damage)

    def check(manifest: Manifest) -> None:
        if manifest.data_fingerprint != data_fingerprint:
            raise CheckpointError(
                f"the data under {recipe.data.folder} is not what this run has read so far; restore it "
                "(mai prepare makes the same from the same documents), or start another --run folder"
            )

    manifest = resume.resume(
        session.folder.checkpoints,
        engine.shards(),
        check=check,
        leave_out=leave_out,
        timeout_seconds=session.timeout_seconds,
    )
    if manifest is None:
        if recipe.checkpoint.start_from is not None:
            _take_weights(engine, Path(recipe.checkpoint.start_from), session, leave_out=leave_out)
        return Restored(TrainState(), committed_step=None)
    progress = manifest.progress
    engine.finish_load(updates=progress.updates)
    session.event("resumed", step=progress.step, saved_by=manifest.layout)
    if session.is_first_rank:
        log.info("resumes after step %d", progress.step)
    state = TrainState(step=progress.step, position=progress.position, tokens=progress.tokens)
    return Restored(state, committed_step=progress.step)


def _take_weights(
    engine: Engine,
    run: Path,
    session: Session,
    *,
    leave_out: Callable[[int, str], None],
) -> None:
    """Take another run's weights, and nothing else of it: what an optimizer keeps begins at zero."""
    other = RunFolder(run)
    manifest = resume.resume(
        other.checkpoints,
        [shard.weight_only() for shard in engine.shards()],
        check=lambda _: None,
        leave_out=leave_out,
        timeout_seconds=session.timeout_seconds,
        key="start_from",
    )
    if manifest is None:
        raise CheckpointError(f"checkpoint.start_from={other.path}: holds no checkpoint")
    engine.finish_load(updates=0)
    step = manifest.progress.step
    session.event("weights taken", run=str(other.path), step=step)
    if session.is_first_rank:
        log.info("starts from the weights of %s after step %d", other.path, step)
