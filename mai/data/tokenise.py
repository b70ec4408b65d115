"""Documents to tokens, in parallel processes and in the corpus's order, whatever the number of processes."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mai.data.dataset_manifest import TOKENIZER_NAME
from mai.data.documents import read_piece
from mai.data.formats.piece import Piece
from mai.data.token_text import TokenText
from mai.data.tokenizer import encode, read_tokenizer
from mai.workers import Workers


@dataclass(frozen=True, slots=True)
class TokenisedDocument:
    digest: bytes
    tokens: NDArray[np.uint32]
    text_bytes: int
    is_altered: bool
    """The tokens stand for another number of bytes than the document has."""


def tokenise(
    groups: Sequence[Sequence[Piece]], *, folder: Path, end_token: int, beginning: int | None, workers: int
) -> Generator[list[TokenisedDocument], None, None]:
    """The kept documents of each group, in order, by the tokenizer in `folder`; each behind its beginning."""
    work = partial(tokenise_group, folder=folder, end_token=end_token, beginning=beginning)
    with Workers(min(workers, len(groups))) as processes:
        yield from processes.in_order(work, groups)


def tokenise_group(
    group: Sequence[Piece], folder: Path, end_token: int, beginning: int | None
) -> list[TokenisedDocument]:
    tokenizer, text = _open(folder, end_token)
    before = [] if beginning is None else [beginning]
    tokenised = []
    for document in (document for piece in group for document in read_piece(piece)):
        if document.rejection is not None:
            continue
        tokens = np.array(before + encode(tokenizer, document.content.decode()), np.uint32)
        text_bytes = text.num_bytes(tokens)
        is_altered = text_bytes != len(document.content)
        tokenised.append(TokenisedDocument(document.digest, tokens, text_bytes, is_altered))
    return tokenised


@lru_cache(maxsize=1)
def _open(folder: Path, end_token: int) -> tuple[Tokenizer, TokenText]:
    return read_tokenizer(folder / TOKENIZER_NAME), TokenText.read(folder, end_token=end_token)
