"""A part of a file that one process reads, and what a format must know."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mai.data.document import Document


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file, in the units of its format: bytes of lines, say, or groups of rows."""

    path: Path
    start: int
    stop: int
    num_bytes: int
    """On disk: what progress counts, and how evenly processes share the work."""


class Format(Protocol):
    """A kind of file; a module with these names."""

    SUFFIXES: frozenset[str]
    """In lower case, with the dot."""

    def cut(self, path: Path, num_bytes: int) -> list[Piece]:
        """The file, of so many bytes, in the pieces that can be read apart, in order."""

    def read(self, piece: Piece) -> Iterator[Document]:
        """Its documents, in the order of the file; OSError where it cannot be read."""
