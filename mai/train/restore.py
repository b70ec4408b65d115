"""Where an attempt goes on: after the run's newest whole checkpoint, from another run's weights, or from the start."""

from collections.abc import Callable
from dataclasses import dataclass

from mai.checkpoint import resume
from mai.checkpoint.hf_side_files import keep_side_files
from mai.checkpoint.manifest import Manifest
from mai.collectives import first_rank_does
from mai.data.dataset_manifest import TOKENIZER_NAME
from mai.data.index import Dataset
from mai.data.tokenizer_file import is_same_tokenizer
from mai.engine.engine import Engine
from mai.errors import CheckpointError
from mai.log import log
from mai.recipe import Recipe
from mai.run_folder import origin_of
from mai.train.session import Session
from mai.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Restored:
    state: TrainState
    committed_step: int | None
    """None where the run has no checkpoint yet."""


def restore(engine: Engine, recipe: Recipe, session: Session, dataset: Dataset) -> Restored:
    """Fill the engine, and say where the run stands; all ranks must call.

    Raises CheckpointError when checkpoints exist and none is whole, the data is not what the run has read, or the run
    that it starts from knows other tokens."""

    def leave_out(step: int, damage: str) -> None:
        session.event("checkpoint left out", step=step, damage=damage)
        if session.is_first_rank:
            log.warning("checkpoint of step %d is left out: %s", step, damage)

    def check(manifest: Manifest) -> None:
        if manifest.data_fingerprint != dataset.manifest.fingerprint:
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
            first_rank_does(
                lambda: _begin_from(recipe, session, dataset),
                key="start_from/tokens",
                timeout_seconds=session.timeout_seconds,
            )
            _take(engine, recipe, session, leave_out=leave_out)
        return Restored(TrainState(), committed_step=None)
    progress = manifest.progress
    engine.finish_load(updates=progress.updates)
    session.event("resumed", step=progress.step, saved_by=manifest.layout)
    if session.is_first_rank:
        log.info("resumes after step %d", progress.step)
    state = TrainState(step=progress.step, position=progress.position, tokens=progress.tokens)
    return Restored(state, committed_step=progress.step)


def _begin_from(recipe: Recipe, session: Session, dataset: Dataset) -> None:
    """Ask whether the origin's tokens are these, and keep what its export needs. The first rank calls."""
    assert recipe.checkpoint.start_from is not None
    other = origin_of(recipe.checkpoint.start_from).run
    if not other.tokenizer.is_file():
        log.warning("%s has no tokenizer.json: nobody can tell whether its tokens are this run's", other.path)
    elif not is_same_tokenizer(other.tokenizer, dataset.folder / TOKENIZER_NAME):
        raise CheckpointError(
            f"checkpoint.start_from={other.path} was trained with another tokenizer than {recipe.data.folder}: its "
            f"weights would take these tokens for others. Use data.tokenizer={other.tokenizer} (or none, which takes "
            "it) and another data.folder"
        )
    keep_side_files(other, session.folder)


def _take(engine: Engine, recipe: Recipe, session: Session, *, leave_out: Callable[[int, str], None]) -> None:
    """Take another run's weights, and what an optimizer keeps if the recipe says so; else that begins at zero."""
    assert recipe.checkpoint.start_from is not None
    origin, takes_all = origin_of(recipe.checkpoint.start_from), recipe.checkpoint.take == "all"
    manifest = resume.resume(
        origin.run.checkpoints,
        engine.shards() if takes_all else [shard.weight_only() for shard in engine.shards()],
        check=lambda _: None,
        leave_out=leave_out,
        timeout_seconds=session.timeout_seconds,
        only=origin.step,
        key="start_from",
    )
    if manifest is None:
        raise CheckpointError(f"checkpoint.start_from={origin.run.path}: holds no checkpoint")
    engine.finish_load(updates=manifest.progress.updates if takes_all else 0)
    step = manifest.progress.step
    what = "weights and optimizer" if takes_all else "weights"
    session.event(f"{what} taken", run=str(origin.run.path), step=step)
    if session.is_first_rank:
        log.info("starts from the %s of %s after step %d", what, origin.run.path, step)
