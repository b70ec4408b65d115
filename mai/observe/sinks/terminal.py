"""The run on the terminal: a live panel where somebody looks, plain lines where nobody does (a file, a pipe, a CI log).

A plain line keeps its words and their order, so that it can be searched:

    step 20/50 loss 3.2145 gradient_norm 0.812 learning_rate 0.00098 tokens_per_second 12345 ... left 1 min 02 s
"""

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mai.log import point_nowhere
from mai.observe.observer import Sink
from mai.observe.panel import draw
from mai.observe.progress import Progress
from mai.observe.record import Logged, RunEnded, RunStarted, StepRecord
from mai.observe.sinks.whole_lines import WholeLines
from mai.observe.wording import duration, event_text, printable

_DRAW_SECONDS = 0.25
# Drawing takes this share of the time at most, so that watching costs the run nothing that can be measured.
_DRAW_SHARE = 0.01
_LINE_SECONDS = 10.0
_LINES_PER_RUN = 20


def terminal_sink(stream: TextIO) -> Sink:
    """The live panel if the stream is a terminal that can show it, else plain lines."""
    console = Console(file=stream)
    if _is_terminal(stream) and not console.is_dumb_terminal and not console.options.ascii_only:
        return LiveSink(console)
    return LineSink(stream)


def _is_terminal(stream: TextIO | None) -> bool:
    """Python has None for a stream that was closed before it started."""
    return stream is not None and not stream.closed and stream.isatty()


class LiveSink:
    name = "terminal"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._live: Live | None = None
        self._next_draw = 0.0

    def run_started(self, run: RunStarted) -> None:
        self._progress = Progress(run)
        # Drawn by us, not by rich's own thread, which a vanished terminal would end with a traceback.
        self._live = Live(
            draw(self._progress), console=self._console, auto_refresh=False, redirect_stderr=_is_terminal(sys.stderr)
        )
        self._live.start(refresh=True)

    def record(self, record: StepRecord) -> None:
        assert self._progress is not None
        self._progress.add(record, now=time.monotonic())
        if time.monotonic() >= self._next_draw:
            self._draw()

    def logged(self, logged: Logged) -> None:
        assert self._progress is not None
        self._progress.logged.update(logged.values)

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        text = Text(event_text(kind, fields), style="dim", no_wrap=True, overflow="ellipsis")
        self._console.print(Text(time.strftime("%H:%M:%S  "), style="dim") + text)

    def run_ended(self, end: RunEnded) -> None:
        self._draw(end)
        self.close()
        if end.code:
            self._console.print(Text(end.message))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, end: RunEnded | None = None) -> None:
        if self._live is None or self._progress is None:
            return
        start = time.monotonic()
        self._live.update(draw(self._progress, end), refresh=True)
        now = time.monotonic()
        self._next_draw = now + max(_DRAW_SECONDS, (now - start) / _DRAW_SHARE)


class LineSink:
    name = "terminal"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._prints = WholeLines(stream)
        self._progress: Progress | None = None
        self._last_line = float("-inf")
        self._shown_step = 0

    def run_started(self, run: RunStarted) -> None:
        self._progress = Progress(run)
        place = f"from step {run.step} to {run.steps}"
        self._say(f"run {run.name} attempt {run.attempt} {place}, {run.layout}, {run.device}, in {run.folder}")

    def record(self, record: StepRecord) -> None:
        assert self._progress is not None
        self._progress.add(record, now=time.monotonic())
        if self._is_due(record, self._progress.run.steps):
            self._last_line, self._shown_step = time.monotonic(), record.step
            self._say(step_line(record, steps=self._progress.run.steps, seconds_left=self._progress.seconds_left))

    def logged(self, logged: Logged) -> None:
        """Shown with the record that was shown last."""
        if self._shown_step == logged.step:
            numbers = " ".join(f"{name}={value:.6g}" for name, value in logged.values.items())
            self._say(f"step {logged.step} logged {numbers}")

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        self._say(event_text(kind, fields))

    def run_ended(self, end: RunEnded) -> None:
        self._say(f"ended {end.name} ({end.code}) at step {end.step}: {end.message}")

    def close(self) -> None:
        self._prints.leave()

    def _is_due(self, record: StepRecord, steps: int) -> bool:
        is_notable = record.held_out_bits_per_byte is not None or not record.kept or record.step == steps
        is_round = record.step % max(1, steps // _LINES_PER_RUN) == 0
        return is_notable or is_round or time.monotonic() - self._last_line >= _LINE_SECONDS

    def _say(self, line: str) -> None:
        ascii_line = printable(line).encode("ascii", errors="backslashreplace").decode()
        try:
            self._stream.write(ascii_line + "\n")
            self._stream.flush()
        except OSError:
            point_nowhere(self._stream)
            raise


def step_line(record: StepRecord, *, steps: int, seconds_left: float | None) -> str:
    """The plain line of one step: names and values in turn, new ones only ever at the end."""
    words = [
        f"step {record.step}/{steps}",
        f"loss {record.loss:.4f}",
        f"gradient_norm {record.gradient_norm:.3g}",
        f"learning_rate {record.learning_rate:.3g}",
        f"tokens_per_second {record.tokens_per_second:.0f}",
        f"model_flops_per_second {record.model_flops_per_second:.3g}",
        f"memory_mib {record.memory_bytes / 2**20:.0f}",
    ]
    if record.utilisation is not None:
        words.append(f"utilisation {record.utilisation:.3f}")
    if record.held_out_bits_per_byte is not None:
        words.append(f"held_out_bits_per_byte {record.held_out_bits_per_byte:.4f}")
    if not record.kept:
        words.append("update_skipped")
    if seconds_left is not None:
        words.append(f"left {duration(seconds_left)}")
    return " ".join(words)
