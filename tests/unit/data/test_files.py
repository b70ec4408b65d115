"""Files of a data folder: whole, or not there."""

import errno
import os
from pathlib import Path

import pytest

from mai.data import files
from mai.errors import StorageError


def test_a_file_that_could_not_be_written_is_as_it_was_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dataset.json"
    files.write_atomically(path, b"old")

    def write_half(path: Path, content: bytes) -> None:
        path.write_bytes(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_durably", write_half)
    with pytest.raises(StorageError, match="No space left on device"):
        files.write_atomically(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.json"]
    assert path.read_bytes() == b"old"
