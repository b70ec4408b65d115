"""A script's own prints beside the step lines: every line is written whole, whichever thread writes it."""

import sys
import threading
from typing import Any, TextIO


class WholeLines:
    """Takes the place of `sys.stdout` and hands on whole lines.

    `print("loss", loss)` writes four times, and a sink's thread likes to run in between: the record that it shows and
    the script's print are of the same moment. What has no end of line yet waits, for each thread apart, until it has
    one or is flushed. Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun: dict[int, str] = {}
        self._stands = sys.stdout is stream
        if self._stands:
            sys.stdout = self

    def leave(self) -> None:
        """Give the place back, unless somebody else has taken it by now. May be called twice."""
        self._stands = False
        if sys.stdout is self:
            sys.stdout = self._stream
        for thread in list(self._begun):
            self._stream.write(self._begun.pop(thread))

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        lines, end, rest = (self._begun.pop(thread, "") + text).rpartition("\n")
        if rest and self._stands:
            self._begun[thread] = rest
            rest = ""
        if lines or end or rest:
            self._stream.write(lines + end + rest)
        return len(text)

    def flush(self) -> None:
        self._stream.write(self._begun.pop(threading.get_ident(), ""))
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
