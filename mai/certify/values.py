"""What a rank held at each step, on disk: written by the ranks, read tensor by tensor by the one who compares.

rank-00003/index.jsonl    one line a piece: step, kind, name, where it lies in its tensor and in values.bin
rank-00003/values.bin     the pieces' numbers, fp32, one after the other
rank-00003/scalars.jsonl  one line a step: loss, gradient norm, and what its batch said of its tokens
"""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]
AnyNumber = TypeVar("AnyNumber", bound=np.generic)
Kind = Literal["weight", "gradient", "state"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements `start` to `stop` of a flattened box of a tensor, as one rank held them after a step."""

    step: int
    """0 is before the first."""
    kind: Kind
    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    """Where the box begins in the tensor."""
    shape: tuple[int, ...]
    start: int
    stop: int
    at: int
    """Where it begins in values.bin, in elements."""

    def of(self, whole: NDArray[AnyNumber]) -> NDArray[AnyNumber]:
        """The same elements of the whole tensor."""
        return whole[self._box].reshape(-1)[self.start : self.stop]

    def put(self, whole: NDArray[Any], values: NDArray[Any]) -> None:
        """Write the elements into the whole tensor."""
        whole[self._box][np.unravel_index(np.arange(self.start, self.stop), self.shape)] = values

    def overlaps(self, other: "Piece") -> bool:
        """Whether another rank's piece holds some of the same elements: boxes are the same or apart."""
        return self.offset == other.offset and self.start < other.stop and other.start < self.stop

    @property
    def _box(self) -> tuple[slice, ...]:
        return tuple(slice(first, first + size) for first, size in zip(self.offset, self.shape, strict=True))


class Writer:
    """One rank's files; opened with `with`."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._folder = folder / f"rank-{rank:05d}"
        self._files = ExitStack()
        self._at = 0

    def __enter__(self) -> "Writer":
        self._folder.mkdir(parents=True)
        self._index = self._files.enter_context((self._folder / "index.jsonl").open("w", encoding="ascii"))
        self._scalars = self._files.enter_context((self._folder / "scalars.jsonl").open("w", encoding="ascii"))
        self._values = self._files.enter_context((self._folder / "values.bin").open("wb"))
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._files.close()

    def add(self, piece: Piece, values: Numbers) -> None:
        assert values.shape == (piece.stop - piece.start,)
        self._index.write(json.dumps({**asdict(piece), "at": self._at}) + "\n")
        self._values.write(values.astype("<f4").tobytes())
        self._at += values.size

    def add_scalars(self, step: int, *, loss: float, norm: float, batch: str) -> None:
        self._scalars.write(json.dumps({"step": step, "loss": loss, "norm": norm, "batch": batch}) + "\n")


class Recording:
    """What all ranks of one trial wrote."""

    def __init__(self, folder: Path) -> None:
        self.pieces: dict[tuple[int, Kind, str], list[tuple[int, Piece]]] = {}
        self.scalars: dict[int, list[dict[str, float]]] = {}
        self.batches: dict[int, str] = {}
        """By step."""
        self._values = {}
        for rank, files in enumerate(sorted(folder.glob("rank-*"))):
            self._values[rank] = np.memmap(files / "values.bin", dtype="<f4", mode="r")
            for piece in map(_piece, _lines(files / "index.jsonl")):
                self.pieces.setdefault((piece.step, piece.kind, piece.name), []).append((rank, piece))
            for line in _lines(files / "scalars.jsonl"):
                self.batches[line["step"]] = line.pop("batch")
                self.scalars.setdefault(line["step"], []).append(line)

    @property
    def names(self) -> list[str]:
        """All parameters, in the order in which they were first written."""
        return list(dict.fromkeys(name for _, _, name in self.pieces))

    def held(self, step: int, kind: Kind, name: str) -> Iterator[tuple[int, Piece, Numbers]]:
        """Each rank's piece, with its numbers."""
        for rank, piece in self.pieces.get((step, kind, name), ()):
            yield rank, piece, np.asarray(self._values[rank][piece.at : piece.at + piece.stop - piece.start])

    def whole(self, step: int, kind: Kind, name: str) -> Numbers:
        """The tensor, put together from one rank or many; NaN where no rank holds it."""
        pieces = list(self.held(step, kind, name))
        whole = np.full(pieces[0][1].global_shape, np.nan, dtype=np.float32)
        for _, piece, values in pieces:
            piece.put(whole, values)
        return whole

    def num_missing(self, step: int, kind: Kind, name: str, *, shape: tuple[int, ...]) -> int:
        """Elements of the tensor that no rank holds."""
        covered = np.zeros(shape, dtype=bool)
        for _, piece in self.pieces.get((step, kind, name), ()):
            piece.put(covered, np.ones(piece.stop - piece.start, dtype=bool))
        return math.prod(shape) - int(covered.sum())


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="ascii") as file:
        return [json.loads(line) for line in file]


def _piece(line: dict[str, Any]) -> Piece:
    tuples = {name: tuple(value) for name, value in line.items() if isinstance(value, list)}
    return Piece(**{**line, **tuples})
