"""The prepared folder, opened: token shards as memory maps, checked before they are trusted.

Opening compares every file's size and the tokenizer's hash with dataset.json; `verify` reads and hashes everything
(about a second a gigabyte). Between the two, a token that the vocabulary lacks is caught as it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mai.data.dataset_manifest import (
    TOKENIZER_NAME,
    DatasetManifest,
    Settings,
    differing_fields,
    read_manifest,
)
from mai.data.files import sha256_of
from mai.data.split import Split
from mai.data.token_text import TokenText
from mai.data.tokenizer_file import is_same_tokenizer
from mai.errors import DataError
from mai.recipe.recipe import Recipe


class TokenShards:
    """One split's token stream: documents one after the other, each closed by the end token."""

    def __init__(self, maps: Sequence[NDArray[np.unsignedinteger[Any]]], *, num_ids: int, name: str) -> None:
        self._maps = maps
        self._ends = np.cumsum([len(tokens) for tokens in maps])
        self._num_ids = num_ids
        self._name = name

    @property
    def num_tokens(self) -> int:
        return int(self._ends[-1])

    def tokens(self, start: int, length: int) -> NDArray[np.int64]:
        """Tokens [start, start + length) of the stream, across shards."""
        stop = start + length
        assert 0 <= start <= stop <= self.num_tokens, f"[{start}, {stop}) is outside of {self.num_tokens} tokens"
        found = np.empty(length, np.int64)
        filled = 0
        for shard in range(int(np.searchsorted(self._ends, start, side="right")), len(self._maps)):
            if filled == length:
                break
            begin = start + filled - (int(self._ends[shard]) - len(self._maps[shard]))
            part = self._maps[shard][begin : begin + length - filled]
            found[filled : filled + len(part)] = part
            filled += len(part)
        if length and int(found.max()) >= self._num_ids:
            raise DataError(
                f"{self._name}: token {int(found.max())} between {start} and {stop} is outside of the vocabulary of "
                f"{self._num_ids}: the shards are damaged; run mai prepare with --again"
            )
        return found


@dataclass(frozen=True, slots=True)
class Dataset:
    """A prepared folder whose files are all there and of the right size."""

    folder: Path
    manifest: DatasetManifest

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        manifest = read_manifest(folder)
        for name, record in manifest.files.items():
            _check_size(folder / name, record.num_bytes)
        if sha256_of(folder / TOKENIZER_NAME) != manifest.files[TOKENIZER_NAME].sha256:
            raise DataError(
                f"{folder / TOKENIZER_NAME} is not the tokenizer that wrote the shards beside it: they do not belong "
                "together; put the right one back, or run mai prepare with --again"
            )
        return cls(folder, manifest)

    def check_belongs(self, recipe: Recipe) -> None:
        """DataError when this folder was prepared for other documents, another tokenizer or another vocabulary."""
        wanted, ours = Settings.of(recipe), self.folder / TOKENIZER_NAME
        if recipe.data.tokenizer is None and wanted.tokenizer and is_same_tokenizer(Path(wanted.tokenizer), ours):
            # That of the run whose weights this one begins with, which most often read this very folder.
            wanted = replace(wanted, tokenizer=self.manifest.settings.tokenizer)
        fields = differing_fields(self.manifest.settings, wanted)
        source = Path(wanted.tokenizer).expanduser() if wanted.tokenizer else None
        if source and source.is_file() and sha256_of(source) != self.manifest.files[TOKENIZER_NAME].sha256:
            fields.append(f"data.tokenizer: {source} has changed since")
        if fields:
            raise DataError(
                f"data.folder={self.folder} was prepared for another recipe ({'; '.join(fields)}); "
                "choose another data.folder, or run mai prepare with --again to replace it"
            )

    def verify(self, *, part: int = 0, parts: int = 1) -> None:
        """Read every file, or one of `parts` shares of them, and compare SHA-256.

        DataError names the first that is not as it was written. The ranks of a job take a share each: a second a
        gigabyte and rank."""
        for name, record in list(self.manifest.files.items())[part::parts]:
            if sha256_of(self.folder / name) != record.sha256:
                raise DataError(
                    f"{self.folder / name} is not as it was written (its SHA-256 differs); "
                    "restore it, or run mai prepare with --again"
                )

    def shards(self, split: Split) -> TokenShards:
        names = self.manifest.splits[split].shards
        maps = [np.memmap(self.folder / name, dtype=self.manifest.token_type, mode="r") for name in names]
        return TokenShards(maps, num_ids=self.manifest.num_ids, name=f"{self.folder}, {split}")

    def document_offsets(self, split: Split) -> NDArray[np.int64]:
        """The token at which each document begins, and the end of the last."""
        return np.memmap(self.folder / self.manifest.splits[split].offsets, dtype="<i8", mode="r")

    def token_text(self) -> TokenText:
        return TokenText.read(self.folder, end_token=self.manifest.end_token)


def _check_size(path: Path, num_bytes: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be found ({error.strerror}); run mai prepare with --again") from error
    if found != num_bytes:
        raise DataError(
            f"{path} has {found} bytes where dataset.json says {num_bytes}: it is "
            f"{'cut short' if found < num_bytes else 'too long'}; restore it, or run mai prepare with --again"
        )
