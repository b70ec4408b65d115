"""Whose run folder it is: an attempt takes it, if it would train on what lies there."""

import os
from contextlib import ExitStack
from dataclasses import MISSING
from typing import Any

from mai.checkpoint import store
from mai.errors import RecipeError
from mai.parallel.place import Place
from mai.recipe import Recipe, to_dict
from mai.recipe.knobs import active, flat
from mai.run_folder import RunFolder


def take_folder(folder: RunFolder, recipe: Recipe, place: Place, *, attempt: int | None, held: ExitStack) -> int:
    """Own the folder until `held` is closed; returns the attempt's number. The first rank calls.

    Raises RunFolderBusyError, and RecipeError where its checkpoints are of another training, or of an unknown one."""
    folder.create()
    # The lease first: a process that does not get it leaves no trace.
    held.enter_context(folder.lease(attempt or folder.last_attempt() + 1))
    number = attempt or folder.begin_attempt()
    old = folder.read_json("recipe.json")
    if old is None and any(folder.checkpoints.iterdir()):
        raise RecipeError(
            f"{folder.checkpoints} holds files, and no recipe.json beside it says what they were trained by: "
            "put that back, or give another --run folder"
        )
    store.sweep(folder.checkpoints)
    changed = changed_training(old, to_dict(recipe)) if old else []
    if changed and store.committed_steps(folder.checkpoints):
        raise RecipeError(*changed, f"{folder.path} keeps what it trains; give the changed recipe another --run folder")
    folder.write_json("recipe.json", to_dict(recipe))
    folder.event(number, "started", recipe=recipe.name, ranks=place.world_size, pid=os.getpid())
    return number


def changed_training(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Which fields of two resolved recipes differ and decide what is trained, one line each.

    A field that the older one does not know, because mai did not, is as its default."""
    old_fields, new_fields = dict(flat(old)), dict(flat(new))
    for path in new_fields.keys() - old_fields.keys():
        if (knob := active(path, new)) is not None and knob.default is not MISSING:
            old_fields[path] = knob.default
    return [
        f"{path}={new_fields.get(path)}: this run was started with {old_fields.get(path)}"
        for path in sorted(old_fields.keys() | new_fields.keys())
        if _decides(path) and old_fields.get(path) != new_fields.get(path)
    ]


def _decides(path: str) -> bool:
    """Whether the field decides what is trained, and not who computes, what is watched or what is kept."""
    if path == "data.folder":
        # What the data is, is in its fingerprint, which the checkpoint holds.
        return False
    return path.partition(".")[0] in _TRAINED or path in ("checkpoint.start_from", "checkpoint.take")


_TRAINED = {"model", "data", "optimizer", "train", "precision", "objective"}
