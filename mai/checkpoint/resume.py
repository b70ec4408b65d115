"""Find the newest checkpoint that is whole, agree on it over all ranks, and load it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mai.checkpoint import load_shards, store
from mai.checkpoint.manifest import Manifest, read_manifest
from mai.collectives import first_told, tell_json
from mai.engine.shard import Shard
from mai.errors import CheckpointError


def resume(
    checkpoints: Path,
    shards: Sequence[Shard],
    *,
    check: Callable[[Manifest], None],
    leave_out: Callable[[int, str], None],
    timeout_seconds: float,
    only: int | None = None,
    key: str = "resume",
) -> Manifest | None:
    """Fill the shards from the newest checkpoint that verifies; None when none was ever committed.

    `only` names the step of the one checkpoint that will do; `key` tells two calls of one attempt apart.

    All ranks must call, once for each `key`. Every file is verified by every rank that reads it before anything is
    written into the shards; a damaged checkpoint is left for the next older one, on all ranks alike, and `leave_out` is
    told its step and the damage. Raises CheckpointError when checkpoints exist and none is whole: a run never silently
    starts over.
    """
    # The first rank's list: another node may not see the newest folder yet.
    steps: list[int] = tell_json(
        store.committed_steps(checkpoints), key=f"{key}/steps", timeout_seconds=timeout_seconds
    )
    if only is not None and only not in steps:
        raise CheckpointError(f"{checkpoints} holds no checkpoint of step {only}; it holds {steps}")
    damages = []
    for step in reversed(steps if only is None else [only]):
        folder = store.step_folder(checkpoints, step)
        manifest, own_damage = _verified(folder, shards)
        damage = first_told(own_damage, key=f"{key}/{step}", timeout_seconds=timeout_seconds)
        if damage is None:
            assert manifest is not None
            check(manifest)
            load_shards.fill(folder, manifest, shards)
            return manifest
        damages.append(damage)
        leave_out(step, damage)
    if damages:
        raise CheckpointError(
            f"none of the {len(damages)} checkpoints under {checkpoints} is whole: {'; '.join(damages)}. "
            "Restore one from a copy, or start over in a new --run folder"
        )
    return None


def _verified(folder: Path, shards: Sequence[Shard]) -> tuple[Manifest | None, str | None]:
    """The manifest, or what is wrong with the checkpoint."""
    try:
        manifest = read_manifest(folder)
        load_shards.verify_files(folder, manifest, shards)
    except CheckpointError as error:
        return None, str(error)
    return manifest, None
