"""One reading of the whole corpus: what is in it, by hash, and the sample that a tokenizer is trained on."""

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mai.data.document import Document
from mai.data.documents import read_piece
from mai.data.formats.piece import Piece
from mai.data.split import share_of, split_of
from mai.errors import DataError

SAMPLE_BYTES = 8 * 10**6
"""Training text that the tokenizer is trained on: more is slower, and 30 MB gains 3% in bytes per token."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one reading of the corpus found."""

    corpus_sha256: str
    num_documents: int
    rejected: Mapping[str, int]
    sample: tuple[str, ...]


def survey_corpus(pieces: Iterable[Piece], *, held_out_fraction: float, advance: Callable[[int], None]) -> Survey:
    """Read every document once; raises DataError when nothing is left to train on or to hold out."""
    corpus = hashlib.sha256()
    shares: list[float] = []
    rejected: Counter[str] = Counter()
    first_rejected: dict[str, str] = {}
    sample = _Sample()
    for piece in pieces:
        for document in read_piece(piece):
            if document.rejection is not None:
                rejected[document.rejection.value] += 1
                first_rejected.setdefault(document.rejection.value, document.where)
                continue
            digest = document.digest
            corpus.update(digest)
            shares.append(share_of(digest))
            if split_of(digest, held_out_fraction=held_out_fraction) == "train":
                sample.offer(digest, document)
        advance(piece.num_bytes)
    if not shares:
        raise DataError(_nothing_kept(rejected, first_rejected))
    _check_both_sides(min(shares), max(shares), num_documents=len(shares), held_out_fraction=held_out_fraction)
    return Survey(corpus.hexdigest(), len(shares), dict(sorted(rejected.items())), sample.texts())


class _Sample:
    """The training documents with the smallest hashes, up to SAMPLE_BYTES: the same in any order of reading."""

    def __init__(self) -> None:
        self._largest_first: list[tuple[int, bytes]] = []
        self._num_bytes = 0

    def offer(self, digest: bytes, document: Document) -> None:
        heapq.heappush(self._largest_first, (-int.from_bytes(digest, "big"), document.content))
        self._num_bytes += len(document.content)
        while self._num_bytes - len(self._largest_first[0][1]) >= SAMPLE_BYTES:
            self._num_bytes -= len(heapq.heappop(self._largest_first)[1])

    def texts(self) -> tuple[str, ...]:
        return tuple(content.decode() for _, content in sorted(self._largest_first, reverse=True))


def _nothing_kept(rejected: Mapping[str, int], first_rejected: Mapping[str, str]) -> str:
    if not rejected:
        return "data.documents: the files hold no document at all; name a file or folder with text"
    reasons = "; ".join(f"{count} {reason}, first {first_rejected[reason]}" for reason, count in rejected.items())
    return (
        f"data.documents: none of the {sum(rejected.values())} documents can be used ({reasons}); documents are UTF-8 "
        'text without NUL bytes (iconv converts other encodings), .jsonl lines are objects with "text"'
    )


def _check_both_sides(lowest: float, highest: float, *, num_documents: int, held_out_fraction: float) -> None:
    if num_documents == 1:
        raise DataError(
            "data.documents: there is one document, which cannot be both trained on and held out; split it into "
            "several files, or into the lines of a .jsonl file"
        )
    fraction_field = f"data.held_out_fraction={held_out_fraction:g}"
    if lowest >= held_out_fraction:
        enough = math.ceil(lowest * 1000 + 1) / 1000
        way_out = f"add documents, or use {enough:g}" if enough < 1 else "add documents"
        raise DataError(f"{fraction_field} holds out none of the {num_documents} documents; {way_out}")
    if highest < held_out_fraction:
        few = math.floor(highest * 1000) / 1000
        raise DataError(
            f"{fraction_field} leaves none of the {num_documents} documents to train on; add documents, or use {few:g}"
        )
