"""What a checkpoint says about itself: which pieces of which tensors lie in which file, and where the run stood.

A piece is a range of a flattened block of a global tensor, so the manifest knows no ranks and no layout. It carries a
digest of itself, as it carries those of the files: a damaged digit must not become another step.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mai.checkpoint.shard_file import FileDigest
from mai.errors import CheckpointError

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"

_STRICT = ConfigDict(extra="forbid")

# No separators and no dots at the start: a name can only mean a file inside the checkpoint's own folder.
FileName = Annotated[str, Field(pattern=r"^rank-[0-9]{5,}\.safetensors$")]
Count = Annotated[int, Field(ge=0)]


@checked_dataclass(frozen=True, config=_STRICT)
class Piece:
    """Elements `start` to `stop` of the flattened box at `offset` with `shape`, in `file` under `key`."""

    file: FileName
    key: str
    offset: tuple[Count, ...]
    shape: tuple[Count, ...]
    start: Count
    stop: Count


@checked_dataclass(frozen=True, config=_STRICT)
class TensorEntry:
    shape: tuple[Count, ...]
    pieces: list[Piece]


@checked_dataclass(frozen=True, config=_STRICT)
class Progress:
    """Where the run stood; all that a resume needs besides the tensors."""

    step: Count
    position: Count
    """Sequences consumed."""
    tokens: Count
    updates: Count
    """Updates applied; smaller than `step` when steps were skipped."""


@checked_dataclass(frozen=True, config=_STRICT)
class Manifest:
    format_version: int
    progress: Progress
    states: list[str]
    """What there is of parameters: `KEY.STATE` in a piece's file, for each state that the parameter has. The weight is
    of all; which of the optimizer's states, the optimizer says, and a buffer has none."""
    layout: dict[str, int]
    recipe_fingerprint: str
    data_fingerprint: str
    files: dict[FileName, FileDigest]
    tensors: dict[str, TensorEntry]

    def to_json(self) -> str:
        values = asdict(self)
        return json.dumps({**values, "sha256": _digest(values)}, indent=1, sort_keys=True)


def read_manifest(folder: Path) -> Manifest:
    """Raises CheckpointError when it is missing, not ours, or of a newer format."""
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the checkpoint is not whole") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, not JSON ({error})") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format {version}, this mai reads format {FORMAT_VERSION}")
    if values.pop("sha256", None) != _digest(values):
        raise CheckpointError(f"{path}: damaged; it is not as it was written (its own SHA-256 differs)")
    try:
        # From text, where `strict` still lets a list be a tuple, and nothing else be what it is not.
        return TypeAdapter(Manifest).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged ({error.error_count()} fields do not fit the format)") from error


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of all fields but itself."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def merge_pieces(reports: Sequence[dict[str, Any]]) -> dict[str, TensorEntry]:
    """All ranks' pieces by tensor; raises CheckpointError unless they cover every tensor exactly once.

    A report's "shapes" name every tensor that the rank holds a part of, also where another rank answers for it."""
    shapes = {name: tuple(shape) for report in reports for name, shape in report["shapes"].items()}
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for report in reports:
        for name, piece in report["pieces"]:
            pieces[name].append(Piece(**piece))
    for name, shape in shapes.items():
        _check_coverage(name, shape, pieces[name])
    return {name: TensorEntry(shape=shapes[name], pieces=pieces[name]) for name in sorted(shapes)}


def _check_coverage(name: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> None:
    # Blocks of one tensor do not overlap by construction, so equal counts mean each element once.
    stops: dict[tuple[int, ...], int] = {}
    for piece in sorted(pieces, key=lambda piece: (piece.offset, piece.start)):
        if piece.start != stops.get(piece.offset, 0):
            raise CheckpointError(f"{name}: pieces overlap or leave a gap at element {piece.start} of {piece.offset}")
        stops[piece.offset] = piece.stop
    if sum(stops.values()) != math.prod(shape):
        raise CheckpointError(f"{name}: pieces hold {sum(stops.values())} of {math.prod(shape)} elements")
