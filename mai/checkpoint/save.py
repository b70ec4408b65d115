"""Write a checkpoint: every rank its own file, one rank the manifest and the commit.

    every rank   .tmp-STEP-ATTEMPT/rank-NNNNN.safetensors, fsync        reports {size, digest, pieces} or its error
    first rank   all there, every element once -> manifest, fsync       rename to step-STEP, fsync the parent
    every rank   learns the verdict

A dead or failing rank makes the save fail, never half succeed: the previous checkpoint stands.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mai.checkpoint import store
from mai.checkpoint.manifest import FORMAT_VERSION, Manifest, Piece, Progress, merge_pieces
from mai.checkpoint.shard_file import FileDigest, write_tensors
from mai.collectives import collect_json, tell_json
from mai.engine.shard import Shard
from mai.errors import CheckpointError, StorageError


@dataclass(frozen=True, slots=True)
class SaveContext:
    """What stays the same over the saves of one attempt."""

    checkpoints: Path
    attempt: int
    rank: int
    keep: int
    layout: dict[str, int]
    recipe_fingerprint: str
    data_fingerprint: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class PendingSave:
    """A checkpoint whose files are written, or are being written; it counts for nothing before `finish`."""

    progress: Progress
    context: SaveContext
    report: dict[str, Any]
    """What this rank wrote, or why it could not."""

    @property
    def step(self) -> int:
        return self.progress.step

    def finish(self) -> Path:
        """Commit, and return the checkpoint's folder; all ranks must call.

        Raises StorageError on every rank when any rank could not write; nothing committed before is touched."""
        progress, context = self.progress, self.context
        key = f"save/{context.attempt}/{progress.step}"
        reports = collect_json(self.report, key=f"{key}/report", timeout_seconds=context.timeout_seconds)
        verdict = _commit(reports, progress, context) if reports is not None else None
        error = tell_json(verdict, key=f"{key}/verdict", timeout_seconds=context.timeout_seconds)
        if error:
            raise StorageError(
                f"checkpoint of step {progress.step} was not saved: {error}; the previous checkpoint stands. "
                f"Free space or mend the storage under {context.checkpoints}, then start the run again: it resumes"
            )
        return store.step_folder(context.checkpoints, progress.step)


def begin_save(shards: Sequence[Shard], progress: Progress, context: SaveContext) -> PendingSave:
    """Write this rank's file; every rank calls, and then `finish` of what comes back."""
    return PendingSave(progress, context, _write_own_file(shards, _temporary(progress, context), context.rank))


def _temporary(progress: Progress, context: SaveContext) -> Path:
    return store.temporary_folder(context.checkpoints, progress.step, context.attempt)


def _write_own_file(shards: Sequence[Shard], temporary: Path, rank: int) -> dict[str, Any]:
    file_name = f"rank-{rank:05d}.safetensors"
    tensors, pieces = {}, []
    for shard in (shard for shard in shards if not shard.block.is_replica):
        block = shard.block
        key = f"{block.name}@{','.join(map(str, block.offset))}:{shard.start}"
        tensors.update({f"{key}.{state}": tensor for state, tensor in shard.tensors.items()})
        piece = Piece(file_name, key, block.offset, block.shape, shard.start, shard.stop)
        pieces.append((block.name, asdict(piece)))
    try:
        temporary.mkdir(mode=0o750, parents=True, exist_ok=True)
        digest = write_tensors(temporary / file_name, tensors)
    except OSError as error:
        return {"error": f"rank {rank} could not write {temporary / file_name}: {error.strerror}"}
    shapes = {shard.block.name: shard.block.global_shape for shard in shards}
    states = list(dict.fromkeys(state for shard in shards for state in shard.tensors))
    return {"file": file_name, "digest": asdict(digest), "shapes": shapes, "states": states, "pieces": pieces}


def _commit(reports: Sequence[dict[str, Any]], progress: Progress, context: SaveContext) -> str:
    """The first rank's part; returns what went wrong, or an empty string."""
    temporary, final = _temporary(progress, context), store.step_folder(context.checkpoints, progress.step)
    try:
        errors = [report["error"] for report in reports if "error" in report]
        if not errors:
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                progress=progress,
                states=list(dict.fromkeys(state for report in reports for state in report["states"])),
                layout=context.layout,
                recipe_fingerprint=context.recipe_fingerprint,
                data_fingerprint=context.data_fingerprint,
                files={report["file"]: FileDigest(**report["digest"]) for report in reports},
                tensors=merge_pieces(reports),
            )
            store.commit(temporary, final, manifest.to_json())
            store.keep_newest(context.checkpoints, context.keep, newest=progress.step)
            return ""
    except (OSError, CheckpointError) as error:
        errors = [str(error)]
    shutil.rmtree(temporary, ignore_errors=True)
    return "; ".join(errors)
