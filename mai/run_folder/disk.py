"""Writing so that a crash leaves the old file or the new one, and saying what is wrong when the disk refuses."""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

from mai.errors import EnvironmentMismatchError, RefusedError, StorageError

FOLDER_MODE = 0o750
FILE_MODE = 0o640


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def plain_json(value: Any, *, indent: int | None = None) -> str:
    """Strict ASCII JSON, safe to print: control characters are escaped.

    Numbers that JSON lacks become the strings "NaN", "Infinity" and "-Infinity" (as in protobuf's JSON mapping), which
    Python's `float` reads back.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def parsed_object(text: str) -> dict[str, Any] | None:
    """The JSON object in the text; None if it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that hold a whole JSON object; none if there is no such file."""
    with naming_storage_errors(path):
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from filter(None, map(parsed_object, file))


@contextmanager
def complete_temporary(target: Path, text: str) -> Iterator[Path]:
    """A synced file beside the target, under a name that nobody can guess; gone after the block."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, FILE_MODE), "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename, a link or a new file in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_or_nothing(final: Path) -> Iterator[Path]:
    """A folder beside `final` to write into, which gets that name after the block; an error leaves nothing.

    What a killed process left there is cleared away. `final` must not be there, or be an empty folder."""
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(mode=FOLDER_MODE, parents=True)
        yield temporary
        temporary.rename(final)
        sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_for_appending(path: Path) -> int:
    """Descriptor of a line file, made if missing; a line that a crash left unfinished is closed off first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def make_private_folder(folder: Path) -> None:
    """Make the folder, and its parents where missing, closed to others; refuse a place where everybody may write."""
    real = folder.resolve()
    missing = list(takewhile(lambda path: not path.exists(), (real, *real.parents)))
    for existing in {real, real.parent, missing[-1].parent if missing else real} - set(missing):
        _refuse_if_all_may_write(existing)
    for path in (*reversed(missing), real):
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _refuse_if_all_may_write(folder: Path) -> None:
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise RefusedError(
            f"everybody may write in {folder} (mode {stat.S_IMODE(mode):04o}), so anybody could swap the run's files. "
            f"Run chmod o-w {folder} (or chmod +t), or choose a folder of your own"
        )


@contextmanager
def naming_storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a `MaiError` that names the path and the way out."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: Path) -> StorageError | EnvironmentMismatchError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"cannot write {path}: {reason} ({_free_mebibytes(path):.0f} MiB free). Free some space, or copy the run "
            "folder to a larger disk and go on there; what was committed is safe"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return EnvironmentMismatchError(
            f"{path}: {reason} for user {os.geteuid()}. Give this user the right, or choose another run folder"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return EnvironmentMismatchError(f"{path} cannot be part of a run folder: {reason}. Choose another run folder")
    return StorageError(
        f"{path}: {reason}. The storage is read-only, broken or gone; check it (mount, dmesg), then start again; what "
        "was committed is safe"
    )


def _free_mebibytes(path: Path) -> float:
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(existing).free / 2**20


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), value)
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
