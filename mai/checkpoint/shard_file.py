"""One rank's file of a checkpoint: raw fp32 tensors behind a JSON header, the safetensors format.

Written by our own hand so that the bytes are hashed while they go out and never held twice; read with safetensors.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mai.errors import CheckpointError

_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What identifies a written file."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileDigest:
    """Write 1-D fp32 tensors and fsync; raises OSError when the storage refuses."""
    arrays = {name: tensor.detach().to("cpu", torch.float32).contiguous().numpy() for name, tensor in tensors.items()}
    header, end = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    contents: list[bytes | memoryview[int]] = [*_head(header)]
    # An empty array has no bytes to cast; that numpy arrays are buffers, mypy knows from Python 3.12 on.
    contents += [memoryview(array).cast("B") for array in arrays.values() if array.size]  # type: ignore[arg-type]
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for content in contents:
            file.write(content)
            digest.update(content)
            size += len(content)
        file.flush()
        os.fsync(file.fileno())
    return FileDigest(bytes=size, sha256=digest.hexdigest())


_BYTES = {"F32": 4, "BF16": 2, "F16": 2}


def write_stream(path: Path, entries: Sequence[tuple[str, str, tuple[int, ...]]], tensors: Iterable[Tensor]) -> None:
    """Write tensors one after the other as they come and fsync; `entries` name each with dtype and shape."""
    header, end = {}, 0
    for name, dtype, shape in entries:
        size = math.prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    with path.open("xb") as file:
        for content in _head({"__metadata__": {"format": "pt"}, **header}):
            file.write(content)
        for (name, _, shape), tensor in zip(entries, tensors, strict=True):
            assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} instead of {shape}"
            # numpy knows no bf16: the bytes are written.
            file.write(memoryview(tensor.flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def _head(header: Mapping[str, object]) -> list[bytes]:
    """What stands before the numbers in a safetensors file."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text]


def verify(path: Path, expected: FileDigest) -> None:
    """Raise CheckpointError unless every byte of the file is the one that was written."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{path}: holds {size} bytes, {expected.bytes} were written")
        found = _sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the checkpoint is not whole") from error
    if found != expected.sha256:
        raise CheckpointError(f"{path}: damaged; its SHA-256 is {found[:12]}, {expected.sha256[:12]} was written")


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_range(path: Path, name: str, start: int, stop: int) -> Tensor:
    """Elements `start` to `stop` of one tensor of a verified file."""
    with safe_open(path, framework="pt") as file:
        return file.get_slice(name)[start:stop]  # type: ignore[no-any-return]
