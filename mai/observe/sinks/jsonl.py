"""The truth: metrics.jsonl in the run folder.

Every line is one write and reaches the kernel at once, so it survives the process; only `close` waits for the disk,
since a power cut loses no more than what the next attempt trains again.

A full disk does not stop the run: a checkpoint that cannot be written does that, and says so. Here the lines wait in
memory and are written, in order, as soon as there is room.
"""

import errno
import os
from typing import Any

from mai.observe.record import Logged, RunEnded, RunStarted, StepRecord
from mai.run_folder import RunFolder, naming_storage_errors, open_for_appending

_MAX_WAITING_BYTES = 16 * 2**20


class JsonlSink:
    name = "metrics.jsonl"

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self._waiting = b""

    def run_started(self, run: RunStarted) -> None:
        """Nothing: the file is opened with the first line."""

    def record(self, record: StepRecord) -> None:
        self._add(record.to_json_line(), record.step)

    def logged(self, logged: Logged) -> None:
        self._add(logged.to_json_line(), logged.step)

    def _add(self, text: str, step: int) -> None:
        line = text.encode()
        with naming_storage_errors(self._folder.metrics):
            if len(self._waiting) + len(line) > _MAX_WAITING_BYTES:
                raise OSError(errno.ENOBUFS, f"step {step} is lost, too many lines wait for the disk")
            self._waiting += line
            self._write()

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        """Nothing: whoever makes an event writes it into the run folder, sinks or no sinks."""

    def run_ended(self, end: RunEnded) -> None:
        """Nothing: that is in the terminal file."""

    def close(self) -> None:
        with naming_storage_errors(self._folder.metrics):
            self._write()
            if self._descriptor is not None:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = None

    def _write(self) -> None:
        """Write what waits; after a short write the rest of the line waits, and is completed by the next call."""
        if self._descriptor is None and self._waiting:
            self._descriptor = open_for_appending(self._folder.metrics)
        while self._waiting and self._descriptor is not None:
            self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
