"""Writes what a run of our own would write, by a clock of its own."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from mai.cli_plan import record_of
from mai.errors import ExitCode
from mai.plan.goodput.measured import Measured
from mai.plan.goodput.run_record import measured
from mai.run_folder import RunFolder, Terminal
from mai.run_folder.disk import plain_json

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEP_SECONDS, SAVE_SECONDS, START_SECONDS, RELAUNCH_SECONDS = 2.0, 3.0, 25.0, 12.0
EVERY_STEPS = 10


class Recorder:
    def __init__(self, path: Path) -> None:
        self.folder, self.now, self.saved, self.attempt = RunFolder(path), 0.0, 0, 0
        self.folder.create()

    @property
    def measured(self) -> Measured:
        return measured(record_of(self.folder.path))

    def live(self, steps: int, *, ranks: int = 16, code: ExitCode | None = None) -> None:
        """An attempt that takes so many steps and dies in the middle of the next; without a code nobody says why.

        One that is asked to stop saves in place of that."""
        self.attempt = self.folder.begin_attempt()
        self._event("started", ranks=ranks)
        self.now += START_SECONDS
        if self.saved:
            self._event("resumed", step=self.saved)
        last = self.saved + steps
        is_asked = code in (ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.PREEMPTED)
        for step in range(self.saved + 1, last + 1):
            self.now += STEP_SECONDS
            self._step(step)
            if step % EVERY_STEPS == 0 or (is_asked and step == last):
                self.now += SAVE_SECONDS
                self._event("checkpoint committed", step=step)
                self.saved = step
        self.now += 0.0 if is_asked else STEP_SECONDS / 2 + RELAUNCH_SECONDS
        if code is not None:
            self._event("job_ended", code=int(code), name=code.name)
            self._end(code, last)

    def rest(self, seconds: float) -> None:
        self.now += seconds

    def _event(self, kind: str, **fields: Any) -> None:
        with (self.folder.path / f"events-{self.attempt}.jsonl").open("a") as file:
            file.write(plain_json({"time": self._time(), "kind": kind, **fields}) + "\n")

    def _step(self, step: int) -> None:
        line = {"step": step, "step_seconds": STEP_SECONDS, "time": self._time(), "attempt": self.attempt}
        with self.folder.metrics.open("a") as file:
            file.write(plain_json(line) + "\n")

    def _end(self, code: ExitCode, step: int) -> None:
        end = Terminal(
            code=code,
            name=code.name,
            culprit=None,
            phase="training",
            step=step,
            last_committed_step=self.saved,
            evidence="",
            suggestion="",
        )
        self.folder.write_terminal(self.attempt, end)

    def _time(self) -> str:
        return (BEGIN + timedelta(seconds=self.now)).isoformat(timespec="milliseconds")
