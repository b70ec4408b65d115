"""The corpus as an ordered stream of documents, each kept or rejected for a reason that is counted.

An entry of `recipe.data.documents` is a folder (read recursively, in sorted order; hidden files and other suffixes
are passed over), a single file of any suffix, or `python:stdlib`, the running Python's own sources. One document a
file for the text suffixes: .c .cc .cpp .cu .cuh .go .h .hpp .htm .html .java .jl .js .kt .lua .markdown .md .php .pl
.py .pyi .r .rb .rs .rst .scala .sh .sql .swift .tex .text .toml .ts .txt .xml .yaml .yml; one document a line, under
"text", for .jsonl.
"""

import difflib
import hashlib
import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mai.errors import DataError

STANDARD_LIBRARY = "python:stdlib"
JSONL_SUFFIX = ".jsonl"
# fmt: off
TEXT_SUFFIXES = frozenset({
    ".c", ".cc", ".cpp", ".cu", ".cuh", ".go", ".h", ".hpp", ".htm", ".html", ".java", ".jl", ".js", ".kt", ".lua",
    ".markdown", ".md", ".php", ".pl", ".py", ".pyi", ".r", ".rb", ".rs", ".rst", ".scala", ".sh", ".sql", ".swift",
    ".tex", ".text", ".toml", ".ts", ".txt", ".xml", ".yaml", ".yml",
})
# fmt: on
PIECE_BYTES = 4 * 2**20
"""A .jsonl file is cut into ranges of this size, so that several processes can share it."""

_INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Rejection(str, Enum):
    """Why a document is left out."""

    EMPTY = "empty"
    NOT_UTF8 = "not_utf8"
    NUL_BYTES = "nul_bytes"
    BAD_JSON = "bad_json"
    NO_TEXT = "no_text"


@dataclass(frozen=True, slots=True)
class Document:
    """The UTF-8 bytes of one document, where they were found, and why they are left out, if they are."""

    where: str
    content: bytes
    rejection: Rejection | None

    @property
    def digest(self) -> bytes:
        """What a document is known by: equal texts are one document, wherever they lie."""
        return hashlib.sha256(self.content).digest()


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole text file, or the lines of a .jsonl file that begin in the bytes [start, stop)."""

    path: Path
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


def find_pieces(entries: Sequence[str]) -> list[Piece]:
    """Every file that the entries name, in order, cut into pieces."""
    return [piece for entry in entries for piece in _pieces_of(entry)]


def group_pieces(pieces: Sequence[Piece], *, group_bytes: int) -> list[tuple[Piece, ...]]:
    """Neighbours together until a group holds `group_bytes`; the grouping depends on nothing but the sizes."""
    groups: list[list[Piece]] = [[]]
    for piece in pieces:
        if sum(member.num_bytes for member in groups[-1]) >= group_bytes:
            groups.append([])
        groups[-1].append(piece)
    return [tuple(group) for group in groups if group]


def read_piece(piece: Piece) -> Iterator[Document]:
    """The documents of a piece, in the order of the file."""
    try:
        if piece.path.suffix.lower() == JSONL_SUFFIX:
            yield from _read_lines(piece)
        else:
            yield judge(str(piece.path), piece.path.read_bytes())
    except OSError as error:
        raise DataError(
            f"data.documents: cannot read {piece.path}: {error.strerror}; mend it or leave it out"
        ) from error


def judge(where: str, content: bytes) -> Document:
    """Keep these bytes as a document, or say why not."""
    return Document(where, content, _rejection(content))


def _rejection(content: bytes) -> Rejection | None:
    if not content.strip():
        return Rejection.EMPTY
    if b"\0" in content:
        return Rejection.NUL_BYTES
    try:
        content.decode()
    except UnicodeDecodeError:
        return Rejection.NOT_UTF8
    return None


def _read_lines(piece: Piece) -> Iterator[Document]:
    with piece.path.open("rb") as file:
        position = piece.start
        if position > 0:
            # A line belongs to the piece it begins in: finish the line that began before this one.
            file.seek(position - 1)
            position += len(file.readline()) - 1
        while position < piece.stop and (line := file.readline()):
            if line.strip():
                yield _parse_line(f"{piece.path} at byte {position}", line)
            position += len(line)


def _parse_line(where: str, line: bytes) -> Document:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return Document(where, b"", Rejection.NOT_UTF8)
    except (ValueError, RecursionError):
        return Document(where, b"", Rejection.BAD_JSON)
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        return Document(where, b"", Rejection.NO_TEXT)
    # JSON may spell half a surrogate pair, which has no UTF-8 form: surrogatepass keeps it for `judge` to reject.
    return judge(where, text.encode("utf-8", "surrogatepass"))


def _pieces_of(entry: str) -> list[Piece]:
    try:
        return [piece for path in _find_files(entry) for piece in _cut(path)]
    except (OSError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        raise DataError(f"data.documents={entry}: cannot be read ({error}); mend it or leave it out") from error


def _cut(path: Path) -> list[Piece]:
    num_bytes = path.stat().st_size
    if path.suffix.lower() != JSONL_SUFFIX or num_bytes == 0:
        return [Piece(path, 0, num_bytes)]
    return [Piece(path, start, min(start + PIECE_BYTES, num_bytes)) for start in range(0, num_bytes, PIECE_BYTES)]


def _find_files(entry: str) -> list[Path]:
    if entry == STANDARD_LIBRARY:
        return _walk(Path(sysconfig.get_paths()["stdlib"]), suffixes=frozenset({".py"}), pruned=_INSTALLED_PACKAGES)
    path = Path(entry).expanduser()
    if not entry:
        raise DataError("data.documents has an empty entry; name a folder or a file, or leave it out")
    if path.is_dir():
        return _walk(path, suffixes=TEXT_SUFFIXES | {JSONL_SUFFIX}, pruned=frozenset())
    if not path.is_file():
        raise DataError(_missing(entry, path))
    if path.stat().st_size == 0:
        raise DataError(f"data.documents={entry}: the file is empty; put text in it or leave it out")
    return [path]


def _walk(folder: Path, *, suffixes: frozenset[str], pruned: frozenset[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"data.documents: cannot read {error.filename}: {error.strerror}; mend it or leave it out")

    found: list[Path] = []
    passed_over: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name not in pruned and not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in suffixes and path.is_file():
                found.append(path)
            else:
                passed_over[path.suffix] += 1
    if not found:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in passed_over.most_common(5))
        raise DataError(
            f"data.documents={folder}: the folder holds no text ({'only ' + others if others else 'it is empty'}); "
            f"these are read: {' '.join(sorted(suffixes))}; a file of another suffix is read when it is named itself"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _missing(entry: str, path: Path) -> str:
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    siblings = sorted(sibling.name for sibling in parent.iterdir())
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
    hint = f"did you mean {parent / near[0]}?" if near else f"the nearest folder that exists is {parent.resolve()}"
    return f"data.documents={entry}: there is no such file or folder; {hint} ({STANDARD_LIBRARY} is always there)"
