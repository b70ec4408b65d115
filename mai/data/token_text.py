"""The bytes of text behind each token id, so that bits per byte and the byte baselines are exact without a tokenizer.

The end-of-document token stands for no byte of text; in `decode` it shows as one NUL, which no document holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTHS_NAME = "token_lengths.bin"
BYTES_NAME = "token_bytes.bin"
END_OF_DOCUMENT = b"\0"


@dataclass(frozen=True, slots=True)
class TokenText:
    """For each token id, how many bytes it stands for and where they begin in `content`."""

    content: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    end_token: int

    @classmethod
    def of(cls, texts: Sequence[bytes], *, end_token: int) -> "TokenText":
        texts = [END_OF_DOCUMENT if token == end_token else text for token, text in enumerate(texts)]
        lengths = np.array([len(text) for text in texts], np.int64)
        content = np.frombuffer(b"".join(texts), np.uint8)
        return cls(content, lengths, np.cumsum(lengths) - lengths, end_token)

    @classmethod
    def read(cls, folder: Path, *, end_token: int) -> "TokenText":
        lengths = np.fromfile(folder / LENGTHS_NAME, "<u4").astype(np.int64)
        content = np.fromfile(folder / BYTES_NAME, np.uint8)
        return cls(content, lengths, np.cumsum(lengths) - lengths, end_token)

    def files(self) -> dict[str, bytes]:
        """What `read` reads back, by file name."""
        return {LENGTHS_NAME: self.lengths.astype("<u4").tobytes(), BYTES_NAME: self.content.tobytes()}

    def num_bytes(self, tokens: NDArray[np.integer]) -> int:
        """Bytes of text that these tokens stand for; the ends of documents count none."""
        return int(self.lengths[tokens].sum() - np.count_nonzero(tokens == self.end_token))

    def weighted_bytes(self, tokens: NDArray[np.integer], weights: NDArray[np.floating]) -> float:
        """The same, each token as often as its weight says."""
        num_bytes = self.lengths[tokens] - (tokens == self.end_token)
        return float((num_bytes * weights.astype(np.float64)).sum())

    def decode(self, tokens: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The text of these tokens, with one NUL for each end of a document."""
        lengths = self.lengths[tokens]
        begins = np.cumsum(lengths) - lengths
        found: NDArray[np.uint8] = self.content[
            np.arange(lengths.sum()) + np.repeat(self.starts[tokens] - begins, lengths)
        ]
        return found
