"""How long a save and a load take, and so how long before its end a job must be told.

Every rank copies its shard to the host, hashes and writes it, one tensor at a time, while training waits
(mai/checkpoint/save.py). The three do not overlap, so their seconds add up. A load reads, hashes and copies the same
(mai/checkpoint/load_shards.py).
"""

from dataclasses import dataclass

from mai.plan.cost import disk
from mai.plan.setting.setting import Setting
from mai.recipe import Recipe

_COPY_BYTES_PER_SECOND = 25e9
"""Assumed: from a GPU to its host over 16 lanes of PCIe 4 or better, all GPUs of a node at once."""

_HASH_BYTES_PER_SECOND = 1.66 * 2**30
"""Measured: SHA-256 on one core with SHA instructions; each rank hashes its own shard."""

_MARGIN = 1.5
"""A grace period leaves so many times a save's usual time for one (storage is slowest when everybody saves)."""


@dataclass(frozen=True, slots=True)
class Grace:
    """Seconds from the signal to the end of the process; None is unknown."""

    step_seconds: float
    """A signal waits for the end of the step."""
    copy_seconds: float
    """What copying the largest rank's shard to its host takes."""
    hash_seconds: float
    write_seconds: float | None
    """What writing the whole checkpoint to shared storage takes; None where nobody states how fast that writes."""
    save_seconds: float | None
    seconds: float | None
    """A step, and one and a half saves."""


def grace(recipe: Recipe, setting: Setting, step_seconds: float) -> Grace:
    """What saving the plan's checkpoint to the cluster's storage takes."""
    copy, hashed = _copy_and_hash_seconds(recipe, setting)
    rate = setting.cluster.storage.write_bytes_per_second(_nodes(setting))
    write = None if rate is None else disk(recipe).checkpoint_bytes / rate
    save = None if write is None else copy + hashed + write
    return Grace(
        step_seconds=step_seconds,
        copy_seconds=copy,
        hash_seconds=hashed,
        write_seconds=write,
        save_seconds=save,
        seconds=None if save is None else step_seconds + _MARGIN * save,
    )


def load_seconds(recipe: Recipe, setting: Setting) -> float | None:
    """What loading the plan's checkpoint from the cluster's storage takes, in the layout that saved it; None is
    unknown."""
    rate = setting.cluster.storage.read_bytes_per_second(_nodes(setting))
    return None if rate is None else disk(recipe).checkpoint_bytes / rate + sum(_copy_and_hash_seconds(recipe, setting))


def _copy_and_hash_seconds(recipe: Recipe, setting: Setting) -> tuple[float, float]:
    largest = _largest_shard_bytes(recipe, setting)
    return largest / _COPY_BYTES_PER_SECOND, largest / _HASH_BYTES_PER_SECOND


def _nodes(setting: Setting) -> int:
    return -(-setting.layout.world_size // setting.cluster.gpus_per_node)


def _largest_shard_bytes(recipe: Recipe, setting: Setting) -> float:
    """That one rank writes, on the stage that holds most."""
    shards, expert_shards = setting.shards
    held = [setting.held_on(stage) for stage in range(setting.parallel.pipeline)]
    assert setting.kept_bytes is not None, "of a recipe it is known"
    return setting.kept_bytes * max(rank.dense / shards + rank.experts / expert_shards for rank in held)
