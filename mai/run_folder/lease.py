"""One live process owns a run folder. The kernel's lock says who; the file's content only names them.

The lock (flock) ends with its owner, however that dies: there is no stale lease to clean up. It belongs to the open
file, which children inherit, so a child could keep it past its parent's death. Started programs lose the file on exec
(O_CLOEXEC); forked Python children close it at once. A child forked in C, past Python, would hold it until it ends.
The content is written in place: a renamed file would be another file than the locked one.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mai.errors import EnvironmentMismatchError, RunFolderBusyError
from mai.run_folder.disk import FILE_MODE, naming_storage_errors, parsed_object, plain_json, utc_now

# A reader's `owner` holds the lock for an instant; only an owner holds it through all of these tries.
_TRIES = 5
_PAUSE_SECONDS = 0.1


@contextmanager
def held(path: Path, *, attempt: int) -> Iterator[None]:
    """Own the lease file while the block runs; raises RunFolderBusyError if another live process does."""
    with naming_storage_errors(path):
        file = _LeaseFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    try:
        _lock(file.descriptor, path)
        with naming_storage_errors(path):
            _rewrite(file.descriptor, plain_json(_this_process(attempt)) + "\n")
        yield
    finally:
        file.close()


def owner(path: Path) -> dict[str, Any] | None:
    """What the live owner wrote (empty if it has not yet); None if nobody holds the lease."""
    with naming_storage_errors(path):
        if not path.exists():
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _content(descriptor)
        finally:
            os.close(descriptor)
    return None


class _LeaseFile:
    """The open file that carries the lock; closed at most once, and in every forked child."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._is_open = True
        # Never unregistered (Python cannot); harmless, since `close` remembers that the number is no longer ours.
        os.register_at_fork(after_in_child=self.close)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.descriptor)


def _lock(descriptor: int, path: Path) -> None:
    for _ in range(_TRIES):
        if _try_lock(descriptor, path):
            return
        time.sleep(_PAUSE_SECONDS)
    raise RunFolderBusyError(busy_text(path.parent, _content(descriptor)))


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise EnvironmentMismatchError(
            f"{path}: its file system cannot lock files ({error.strerror}). Mount it with locks (Lustre: -o flock), or "
            "choose another run folder"
        ) from error
    return True


def busy_text(folder: Path, lease: dict[str, Any]) -> str:
    host, pid = lease.get("host", "unknown"), lease.get("pid", "unknown")
    return (
        f"{folder} belongs to a live process: host {host}, pid {pid}, attempt {lease.get('attempt', 'unknown')}, since "
        f"{lease.get('since', 'a moment ago')}. Wait for it to end, stop it (kill -TERM {pid} on {host}; it saves "
        "first), or choose another run folder"
    )


def _this_process(attempt: int) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _start_time(),
        "attempt": attempt,
        "since": utc_now(),
    }


def _start_time() -> str | None:
    """With the pid, names this process even after the number is given out again; None where there is no /proc."""
    try:
        text = Path("/proc/self/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    # proc(5): field 22, in clock ticks since boot; the name in field 2 may hold spaces and parentheses.
    ticks = int(text.rpartition(")")[2].split()[19])
    age_seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - age_seconds, timezone.utc).isoformat(timespec="seconds")


def _content(descriptor: int) -> dict[str, Any]:
    return parsed_object(os.pread(descriptor, 65_536, 0).decode("utf-8", errors="replace")) or {}


def _rewrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    os.fsync(descriptor)
