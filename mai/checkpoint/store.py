"""The folder of checkpoints: what is committed, what may go.

    checkpoints/step-0000000020/manifest.json, rank-00000.safetensors, ...   committed: complete and digested
    checkpoints/.tmp-0000000020-3/                                           being written by attempt 3
    checkpoints/.trash-step-0000000010/                                      being deleted

A folder called `step-...` is a checkpoint because it was renamed to that after everything in it was durable.
"""

import os
import shutil
from pathlib import Path

from mai.checkpoint.manifest import FILE_NAME
from mai.run_folder import STEP_NAME, sync_folder


def committed_steps(checkpoints: Path) -> list[int]:
    """Steps with a committed checkpoint, oldest first."""
    if not checkpoints.is_dir():
        return []
    matches = (STEP_NAME.fullmatch(path.name) for path in checkpoints.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:010d}"


def temporary_folder(checkpoints: Path, step: int, attempt: int) -> Path:
    return checkpoints / f".tmp-{step:010d}-{attempt}"


def commit(temporary: Path, final: Path, manifest_json: str) -> None:
    """Write the manifest and make the checkpoint real by one rename. Called by one rank, when all files are durable."""
    with (temporary / FILE_NAME).open("x", encoding="utf-8") as file:
        file.write(manifest_json)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(temporary)
    if final.exists():
        # The step was saved before and found damaged: this is its second life.
        _discard(final)
    temporary.rename(final)
    sync_folder(final.parent)


def keep_newest(checkpoints: Path, keep: int, *, newest: int) -> None:
    """Delete all but the last `keep` checkpoints up to step `newest`, just committed; called by one rank.

    A folder of a later step is one that this run could not read and went back from: it counts for nothing."""
    for step in [step for step in committed_steps(checkpoints) if step <= newest][:-keep]:
        _discard(step_folder(checkpoints, step))


def sweep(checkpoints: Path) -> None:
    """Remove what a dead attempt left half-written or half-deleted; called by one rank, before the first save."""
    for path in checkpoints.glob(".tmp-*"):
        shutil.rmtree(path)
    for path in checkpoints.glob(".trash-*"):
        shutil.rmtree(path)


def _discard(folder: Path) -> None:
    # First out of the way by one rename, so that a crash in the deletion leaves nothing that looks committed.
    trash = folder.with_name(f".trash-{folder.name}")
    if trash.exists():
        shutil.rmtree(trash)
    folder.rename(trash)
    shutil.rmtree(trash)
