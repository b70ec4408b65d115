"""What a certificate speaks of: the sections of a recipe that decide whether a layout is right, and the code."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mai.optimizer.optimizers import optimizer_of
from mai.recipe import Recipe, to_dict
from mai.train.versions import versions

_SECTIONS = ("model", "parallel", "precision", "objective")
_LIBRARIES = ("mai", "torch", "megatron-core")
_OWN_PARTS = (("model", "layer"), ("model", "attention_core"), ("objective", "loss"))
_OPTIMIZER_FIELDS = ("weight_decay", "beta1", "beta2", "epsilon", "clip_norm")


def subject(recipe: Recipe) -> dict[str, Any]:
    """The recipe's deciding sections, in which the user's own functions are named by the content of their files.

    Not the name, the data, the folders, the sinks, how long and how fast it trains: they move nothing between ranks."""
    values = to_dict(recipe)
    found: dict[str, Any] = {section: values[section] for section in _SECTIONS}
    for section, field in _OWN_PARTS:
        if text := found[section][field]:
            file, _, function = text.rpartition(":")
            found[section][field] = f"{function} of {_digest([Path(file).expanduser()])}"
    # What the optimizer and clipping make of a gradient, and so of the tolerances.
    numbers = {field: values["optimizer"][field] for field in _OPTIMIZER_FIELDS}
    optimizer = {"name": optimizer_of(recipe.optimizer).name, **numbers}
    return {**found, "kernels": values["kernels"], "optimizer": optimizer}


def fingerprint(subject: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over its canonical JSON."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`parallel.tensor=4, certified 2`: what keeps a certificate from speaking of a recipe."""
    before, now = dict(_fields(old)), dict(_fields(new))
    return [
        f"{path}={now.get(path)}, certified {before.get(path)}"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]


def code() -> dict[str, str]:
    """What computes: versions, and the digest of mai's own files, which knows changes that no commit holds yet.

    Versions are without their local part: torch 2.13.0+cpu and 2.13.0+cu128 are the same source."""
    found = versions()
    libraries = {name: str(found[name]).partition("+")[0] for name in _LIBRARIES}
    package = Path(__file__).parents[1]
    sources = sorted([*package.rglob("*.py"), *package.rglob("*.cu")])
    return {**libraries, "mai_source": _digest(sources, inside=package)}


def _digest(files: list[Path], *, inside: Path | None = None) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(inside) if inside else file.name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _fields(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _fields(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
