"""Files that matter: hashed, written whole or not at all, and the prepared folder owned by one process at a time."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mai.errors import DataError, StorageError
from mai.run_folder import sync_folder

LOCK_NAME = ".lock"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """The file holds all of `content`, durably, or is as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with storage(path.parent):
        try:
            write_durably(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Tell a full, read-only or broken storage from a defect of ours."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise StorageError(
            f"data.folder={folder}: the storage refused {place}: {error.strerror}; free space, or choose another folder"
        ) from error


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Create the folder if need be and be its only writer; a second one waits for the first.

    The kernel drops the lock with the process, however that ends."""
    with storage(folder):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"data.folder={folder} is a file; choose another data.folder")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("a")
    with lock:
        with storage(folder):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
