"""Writes one split's token stream: fixed-size shards and the offsets of its documents, hashed as they are written."""

import hashlib
import os
from array import array
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mai.data.dataset_manifest import FileRecord, SplitRecord
from mai.data.split import Split

SHARD_TOKENS = 2**26


class SplitWriter:
    """Append documents, then close; the files mean nothing before dataset.json names them."""

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        token_type: np.dtype[Any],
        end_token: int,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self._folder = folder
        self._split = split
        self._token_type = token_type
        self._end_token = end_token
        self._shard_tokens = shard_tokens
        self._offsets = array("q", [0])
        self._text_bytes = 0
        self._shard: _HashedFile | None = None
        self._room = 0
        self.files: dict[str, FileRecord] = {}

    def append(self, tokens: NDArray[np.unsignedinteger[Any]], *, text_bytes: int) -> None:
        """Add one document and its end."""
        stream = np.append(tokens, self._end_token).astype(self._token_type)
        self._offsets.append(self._offsets[-1] + len(stream))
        self._text_bytes += text_bytes
        while len(stream):
            if self._room == 0:
                self._begin_shard()
            part, stream = stream[: self._room], stream[self._room :]
            assert self._shard is not None
            self._shard.write(part.tobytes())
            self._room -= len(part)

    def close(self) -> SplitRecord:
        self._end_shard()
        shards = tuple(self.files)
        offsets = _HashedFile(self._folder / f"{self._split}-offsets.bin")
        offsets.write(np.array(self._offsets, "<i8").tobytes())
        self.files[offsets.path.name] = offsets.close()
        return SplitRecord(
            num_documents=len(self._offsets) - 1,
            num_tokens=self._offsets[-1],
            text_bytes=self._text_bytes,
            shards=shards,
            offsets=offsets.path.name,
        )

    def _begin_shard(self) -> None:
        self._end_shard()
        self._shard = _HashedFile(self._folder / f"{self._split}-{len(self.files):05}.bin")
        self._room = self._shard_tokens

    def _end_shard(self) -> None:
        if self._shard is not None:
            self.files[self._shard.path.name] = self._shard.close()


class _HashedFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._num_bytes += len(content)

    def close(self) -> FileRecord:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(num_bytes=self._num_bytes, sha256=self._digest.hexdigest())
