"""A text file is one document."""

from collections.abc import Iterator
from pathlib import Path

from mai.data.document import Document, judge
from mai.data.formats.piece import Piece

# fmt: off
SUFFIXES = frozenset({
    ".c", ".cc", ".cpp", ".cu", ".cuh", ".go", ".h", ".hpp", ".htm", ".html", ".java", ".jl", ".js", ".kt", ".lua",
    ".markdown", ".md", ".php", ".pl", ".py", ".pyi", ".r", ".rb", ".rs", ".rst", ".scala", ".sh", ".sql", ".swift",
    ".tex", ".text", ".toml", ".ts", ".txt", ".xml", ".yaml", ".yml",
})
# fmt: on


def cut(path: Path, num_bytes: int) -> list[Piece]:
    return [Piece(path, 0, num_bytes, num_bytes)]


def read(piece: Piece) -> Iterator[Document]:
    yield judge(str(piece.path), piece.path.read_bytes())
