"""One rank's file: what is written is what is read, and what is damaged is told."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mai.checkpoint.shard_file import FileDigest, read_range, verify, write_tensors
from mai.errors import CheckpointError

# Values whose bits an equality of numbers would not tell apart, or would lose.
TENSORS = {
    "a.weight": torch.tensor([1.5, -0.0, 1e-45, float("inf"), 3.4e38]),
    "a.exp_avg": torch.arange(5, dtype=torch.float32),
    "empty": torch.empty(0),
}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, FileDigest]:
    path = tmp_path / "rank-00000.safetensors"
    return path, write_tensors(path, TENSORS)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.int32).tolist()  # type: ignore[no-any-return]


def test_every_bit_comes_back(written: tuple[Path, FileDigest]) -> None:
    path, _ = written
    for name, tensor in TENSORS.items():
        assert bits(read_range(path, name, 0, len(tensor))) == bits(tensor)
    assert bits(read_range(path, "a.weight", 1, 3)) == bits(TENSORS["a.weight"][1:3])


def test_it_is_a_safetensors_file_that_anybody_reads(written: tuple[Path, FileDigest]) -> None:
    assert {name: bits(tensor) for name, tensor in load_file(written[0]).items()} == {
        name: bits(tensor) for name, tensor in TENSORS.items()
    }


def test_the_digest_is_of_the_bytes_on_disk(written: tuple[Path, FileDigest]) -> None:
    path, digest = written
    content = path.read_bytes()
    assert digest == FileDigest(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    verify(path, digest, holds=())


def test_every_byte_is_out_of_the_buffer_when_the_file_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is smaller than Python's buffer, so that nothing goes out before it is told to."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    digest = write_tensors(tmp_path / "rank-00000.safetensors", TENSORS)
    assert sizes == [digest.bytes]


def test_a_file_is_never_written_over(written: tuple[Path, FileDigest]) -> None:
    with pytest.raises(FileExistsError):
        write_tensors(written[0], TENSORS)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_bit_anywhere_is_found(written: tuple[Path, FileDigest], position: int) -> None:
    path, digest = written
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank-00000\.safetensors: damaged"):
        verify(path, digest, holds=())


def test_a_file_cut_short_is_found_by_its_size(written: tuple[Path, FileDigest]) -> None:
    path, digest = written
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"holds {digest.bytes - 1} bytes, {digest.bytes} were written"):
        verify(path, digest, holds=())


def test_a_missing_file_is_told(written: tuple[Path, FileDigest]) -> None:
    path, digest = written
    path.unlink()
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors: cannot be read \(No such file"):
        verify(path, digest, holds=())
