"""The corpus as an ordered stream of documents, each kept or rejected for a reason that is counted.

An entry of `recipe.data.documents` is a folder (read recursively, in sorted order; hidden files and suffixes that no
format knows are passed over), a single file of any suffix, or `python:stdlib`, the running Python's own sources. What
becomes of a file, its format says (`formats/`).
"""

import difflib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mai.data.document import Document
from mai.data.formats.choose_format import SUFFIXES, format_of
from mai.data.formats.piece import Piece
from mai.errors import DataError

STANDARD_LIBRARY = "python:stdlib"

_INSTALLED_PACKAGES = frozenset({"site-packages", "dist-packages", "__pycache__"})


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
        yield from format_of(piece.path).read(piece)
    except OSError as error:
        raise DataError(
            f"data.documents: cannot read {piece.path}: {error.strerror}; mend it or leave it out"
        ) from error


def _pieces_of(entry: str) -> list[Piece]:
    try:
        return [piece for path in _find_files(entry) for piece in format_of(path).cut(path, path.stat().st_size)]
    except (OSError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        raise DataError(f"data.documents={entry}: cannot be read ({error}); mend it or leave it out") from error


def _find_files(entry: str) -> list[Path]:
    if entry == STANDARD_LIBRARY:
        return _walk(Path(sysconfig.get_paths()["stdlib"]), suffixes=frozenset({".py"}), pruned=_INSTALLED_PACKAGES)
    path = Path(entry).expanduser()
    if not entry:
        raise DataError("data.documents has an empty entry; name a folder or a file, or leave it out")
    if path.is_dir():
        return _walk(path, suffixes=SUFFIXES, pruned=frozenset())
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
