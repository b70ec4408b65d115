"""A bar with bytes and MB/s on a terminal, one plain line otherwise."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def byte_progress(title: str, total_bytes: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with each number of bytes done; everything goes to standard error."""
    if not shown:
        yield lambda num_bytes: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        begin = time.monotonic()
        yield lambda num_bytes: None
        seconds = time.monotonic() - begin
        rate = total_bytes / 1e6 / max(seconds, 1e-9)
        line = f"{title}: {total_bytes / 1e6:.1f} MB in {seconds:.1f} s ({rate:.1f} MB/s)"
        console.print(line, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)


@contextmanager
def folder_progress(title: str, folder: Path, total_bytes: int, *, shown: bool) -> Iterator[None]:
    """The same for a folder that other processes fill: how much lies in it is looked up."""
    if not shown:
        yield
        return
    with byte_progress(title, total_bytes, shown=True) as advance:
        done = threading.Event()

        def watch() -> None:
            seen, is_last = 0, False
            while not is_last:
                is_last = done.wait(_LOOK_SECONDS)
                found = _bytes_in(folder)
                advance(found - seen)
                seen = found

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


_LOOK_SECONDS = 0.2


def _bytes_in(folder: Path) -> int:
    """Bytes of its files; one that is renamed or removed meanwhile is counted next time, or not at all."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size if path.is_file() else 0
    return found
