"""Find the newest checkpoint that is whole, agree on it over all ranks, and load it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mai.checkpoint import load, store
from mai.checkpoint.manifest import Manifest, read_manifest
from mai.collectives import max_int
from mai.engine.sharded_state import Shard
from mai.errors import CheckpointError
from mai.log import log

Report = Callable[[str], None]


def newest_manifest(checkpoints: Path) -> tuple[Path, Manifest]:
    """The newest checkpoint whose manifest is readable; raises CheckpointError when there is none."""
    damages = []
    for step in reversed(store.committed_steps(checkpoints)):
        folder = store.step_folder(checkpoints, step)
        try:
            return folder, read_manifest(folder)
        except CheckpointError as error:
            damages.append(str(error))
    raise CheckpointError("; ".join(damages) or f"{checkpoints} holds no checkpoint; train first, with mai train")


def resume(
    checkpoints: Path, shards: Sequence[Shard], *, check: Callable[[Manifest], None], device: torch.device
) -> Manifest | None:
    """Fill the shards from the newest checkpoint that verifies; None when none was ever committed.

    All ranks must call. Every file is verified by every rank that reads it before anything is written into the
    shards; a damaged checkpoint is left for the next older one, on all ranks alike. Raises CheckpointError when
    checkpoints exist and none is whole: a run never silently starts over."""
    steps = store.committed_steps(checkpoints)
    damages = []
    for step in reversed(steps):
        folder = store.step_folder(checkpoints, step)
        manifest, damage = _verified(folder, shards)
        if not max_int(int(damage is not None), device=device):
            assert manifest is not None
            check(manifest)
            load.fill(folder, manifest, shards)
            return manifest
        damages.append(damage or f"{folder}: another rank found it damaged")
        log.warning("checkpoint of step %d is left out: %s", step, damages[-1])
    if damages:
        raise CheckpointError(
            f"none of the {len(steps)} checkpoints under {checkpoints} is whole: {'; '.join(damages)}. "
            "Restore one from a copy, or start over in a new --run folder"
        )
    return None


def _verified(folder: Path, shards: Sequence[Shard]) -> tuple[Manifest | None, str | None]:
    """The manifest, or what is wrong with the checkpoint."""
    try:
        manifest = read_manifest(folder)
        load.verify_files(folder, manifest, shards)
    except CheckpointError as error:
        return None, str(error)
    return manifest, None
