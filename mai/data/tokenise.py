"""Documents to tokens, in parallel processes and in the corpus's order, whatever the number of processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mai.data.documents import Piece, read_piece
from mai.data.manifest import TOKENIZER_NAME
from mai.data.token_text import TokenText
from mai.data.tokenizer import encode, read_tokenizer
from mai.errors import MaiError

# Groups that are under way for each process: enough to keep it busy, few enough to bound memory.
_GROUPS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class TokenisedDocument:
    digest: bytes
    tokens: NDArray[np.uint32]
    text_bytes: int
    is_altered: bool
    """The tokens stand for another number of bytes than the document has."""


def tokenise(
    groups: Sequence[Sequence[Piece]], *, folder: Path, end_token: int, workers: int
) -> Generator[list[TokenisedDocument], None, None]:
    """The kept documents of each group, in order, by the tokenizer in `folder`."""
    workers = min(workers, len(groups))
    if workers <= 1:
        yield from (tokenise_group(group, folder, end_token) for group in groups)
        return
    # Spawned, not forked: the parent holds threads (the tokenizer's, the progress bar's), which a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_obey_parent) as pool:
        pending: deque[Future[list[TokenisedDocument]]] = deque()
        try:
            for group in groups:
                pending.append(pool.submit(tokenise_group, group, folder, end_token))
                if len(pending) > workers * _GROUPS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise MaiError(
                "a process that tokenises died: killed, out of memory, or never started. Try fewer workers; in a "
                'script of your own, call from under if __name__ == "__main__", or run mai prepare first'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def tokenise_group(group: Sequence[Piece], folder: Path, end_token: int) -> list[TokenisedDocument]:
    tokenizer, text = _open(folder, end_token)
    tokenised = []
    for document in (document for piece in group for document in read_piece(piece)):
        if document.rejection is not None:
            continue
        tokens = np.array(encode(tokenizer, document.content.decode()), np.uint32)
        text_bytes = text.num_bytes(tokens)
        is_altered = text_bytes != len(document.content)
        tokenised.append(TokenisedDocument(document.digest, tokens, text_bytes, is_altered))
    return tokenised


@lru_cache(maxsize=1)
def _open(folder: Path, end_token: int) -> tuple[Tokenizer, TokenText]:
    return read_tokenizer(folder / TOKENIZER_NAME), TokenText.read(folder, end_token=end_token)


def _obey_parent() -> None:
    """Leave Ctrl-C to the parent, and never outlive it: a pool's process does not notice a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
