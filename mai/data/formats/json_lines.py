"""A line of a .jsonl file is one document, under "text"."""

import json
from collections.abc import Iterator
from pathlib import Path

from mai.data.document import Document, Rejection, judge
from mai.data.formats.piece import Piece

SUFFIXES = frozenset({".jsonl"})

PIECE_BYTES = 4 * 2**20
"""A file is cut into ranges of this size, so that several processes can share it."""


def cut(path: Path, num_bytes: int) -> list[Piece]:
    """Ranges of bytes; a line belongs to the piece that it begins in."""
    starts = range(0, num_bytes, PIECE_BYTES)
    stops = [min(start + PIECE_BYTES, num_bytes) for start in starts]
    return [Piece(path, start, stop, stop - start) for start, stop in zip(starts, stops, strict=True)]


def read(piece: Piece) -> Iterator[Document]:
    with piece.path.open("rb") as file:
        position = piece.start
        if position > 0:
            # Finish the line that began before this piece.
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
