"""What a checkpoint says about itself: which pieces of which tensors lie in which file, and where the run stood.

A piece is a range of a flattened block of a global tensor, so the manifest knows no ranks and no layout.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mai.checkpoint.shard_file import FileDigest
from mai.errors import CheckpointError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"

_STRICT = ConfigDict(extra="forbid")


@checked_dataclass(frozen=True, config=_STRICT)
class Piece:
    """Elements `start` to `stop` of the flattened box at `offset` with `shape`, in `file` under `key`."""

    file: str
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    stop: int


@checked_dataclass(frozen=True, config=_STRICT)
class TensorEntry:
    shape: tuple[int, ...]
    pieces: list[Piece]


@checked_dataclass(frozen=True, config=_STRICT)
class Progress:
    """Where the run stood; all that a resume needs besides the tensors."""

    step: int
    position: int
    """Sequences consumed."""
    tokens: int
    updates: int
    """Updates applied; smaller than `step` when steps were skipped."""


@checked_dataclass(frozen=True, config=_STRICT)
class Manifest:
    format_version: int
    progress: Progress
    states: list[str]
    """Each piece's key has one tensor for each of these: `KEY.STATE`."""
    layout: dict[str, int]
    recipe_fingerprint: str
    data_fingerprint: str
    files: dict[str, FileDigest]
    tensors: dict[str, TensorEntry]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def read_manifest(folder: Path) -> Manifest:
    """Raises CheckpointError when it is missing, not ours, or of a newer format."""
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the checkpoint is not whole") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, not JSON ({error})") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format {version}, this mai reads format {FORMAT_VERSION}")
    try:
        return TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged ({error.error_count()} fields do not fit the format)") from error


def merge_pieces(reports: Sequence[dict[str, Any]]) -> dict[str, TensorEntry]:
    """All ranks' pieces by tensor; raises CheckpointError unless they cover every tensor exactly once."""
    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for report in reports:
        for name, shape, piece in report["pieces"]:
            shapes[name] = tuple(shape)
            pieces[name].append(Piece(**piece))
    for name, found in pieces.items():
        _check_coverage(name, shapes[name], found)
    return {name: TensorEntry(shape=shapes[name], pieces=pieces[name]) for name in sorted(pieces)}


def _check_coverage(name: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> None:
    # Blocks of one tensor do not overlap by construction, so equal counts mean each element once.
    stops: dict[tuple[int, ...], int] = {}
    for piece in sorted(pieces, key=lambda piece: (piece.offset, piece.start)):
        if piece.start != stops.get(piece.offset, 0):
            raise CheckpointError(f"{name}: pieces overlap or leave a gap at element {piece.start} of {piece.offset}")
        stops[piece.offset] = piece.stop
    if sum(stops.values()) != math.prod(shape):
        raise CheckpointError(f"{name}: pieces hold {sum(stops.values())} of {math.prod(shape)} elements")
