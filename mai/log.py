"""One logger for the whole library: one line per event on stderr, and at info level only the first rank speaks."""

import contextlib
import logging
import os
import sys
from typing import TextIO

log = logging.getLogger("mai")

_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def set_up(rank: int) -> None:
    """Let this process speak: the first rank from info upwards, the others from warnings upwards."""
    handler = _StandardError()
    handler.setFormatter(_OneLine(f"%(asctime)s %(levelname)s rank {rank}: %(message)s", datefmt="%H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


class _OneLine(logging.Formatter):
    """Messages may quote file names and other people's text: no line breaks, nothing that moves a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        return super().formatMessage(record).translate(_CONTROL_CHARACTERS)


class _StandardError(logging.Handler):
    """Looks sys.stderr up at each line: the live view puts itself in its place to keep the panel whole."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # closed before Python started
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            point_nowhere(sys.stderr)


def point_nowhere(stream: TextIO) -> None:
    """Give up on a stream that nobody reads any more (EPIPE, closed): later writes to it succeed, and go nowhere.

    Without this, what is left in its buffer fails again at exit, and Python turns the exit code into 120.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
