"""One rank's file of a checkpoint: raw tensors behind a JSON header, the safetensors format.

Written by our own hand so that the bytes are hashed while they go out and never held twice; read with safetensors.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from mai.errors import CheckpointError

_BLOCK_BYTES = 2**20
Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What identifies a written file."""

    bytes: int
    sha256: str


Entry = tuple[str, str, tuple[int, ...]]
"""Name, dtype (safetensors' name) and shape of one tensor in a file."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By safetensors' names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileDigest:
    """Write 1-D tensors, each in its own dtype, and fsync; raises OSError when the storage refuses."""
    entries = [(name, _NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    values = (tensor.detach().cpu().contiguous() for tensor in tensors.values())
    return write_hashed(path, entries, values)


def write_hashed(path: Path, entries: Sequence[Entry], tensors: Iterable[Tensor]) -> FileDigest:
    """As `write_stream`, with a digest of what was written."""
    digest = hashlib.sha256()
    size = write_stream(path, entries, tensors, told=digest.update)
    return FileDigest(bytes=size, sha256=digest.hexdigest())


def write_stream(
    path: Path,
    entries: Sequence[Entry],
    tensors: Iterable[Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    told: Callable[[bytes | memoryview], object] = lambda content: None,
) -> int:
    """Write tensors one after the other as they come and fsync; returns how many bytes, of which `told` is told all."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in entries:
        size = math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    with path.open("xb") as file:
        for content in _contents(header, entries, tensors):
            file.write(content)
            told(content)
            # Before the next one is made: each may be the largest tensor.
            del content
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _contents(
    header: Mapping[str, object], entries: Sequence[Entry], tensors: Iterable[Tensor]
) -> Iterator[bytes | memoryview]:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    coming = iter(tensors)
    # No zip: it would hold each tensor until it has the next.
    for name, _, shape in entries:
        yield _bytes_of(next(coming), name, shape)


def _bytes_of(tensor: Tensor, name: str, shape: tuple[int, ...]) -> memoryview:
    assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} instead of {shape}"
    # numpy knows no bf16: the bytes are written.
    return memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


def in_files(things: Iterable[Thing], num_bytes: Callable[[Thing], int], *, most: int) -> Iterator[list[Thing]]:
    """Neighbours that go into one file of so many bytes at most; one that is larger gets its own."""
    group: list[Thing] = []
    filled = 0
    for thing in things:
        size = num_bytes(thing)
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(thing)
        filled += size
    if group:
        yield group


def verify(path: Path, expected: FileDigest, *, holds: Collection[str]) -> None:
    """Raise CheckpointError unless every byte of the file is the one that was written, and it has these tensors."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{path}: holds {size} bytes, {expected.bytes} were written")
        found = _sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the checkpoint is not whole") from error
    if found != expected.sha256:
        raise CheckpointError(f"{path}: damaged; its SHA-256 is {found[:12]}, {expected.sha256[:12]} was written")
    with safe_open(path, framework="pt") as file:
        if lacking := sorted(set(holds) - set(file.keys())):
            raise CheckpointError(f"{path}: holds no {', '.join(lacking)}, which its manifest names")


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
