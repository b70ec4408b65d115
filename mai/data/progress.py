"""A bar with bytes and MB/s on a terminal, one plain line otherwise."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        console.print(line, highlight=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)
