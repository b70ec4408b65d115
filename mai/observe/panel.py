"""The live view: one calm panel, drawn from `Progress` alone.

step      a bar, how far, how long still
loss      the newest, and its shape since the start of the attempt
held-out  the same, on text that training never sees
...
"""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mai.observe.curve import sparkline
from mai.observe.progress import Progress
from mai.observe.record import RunEnded, StepRecord
from mai.observe.wording import count, duration, memory, printable, quantity

MAX_WIDTH = 100
_SPARK_WIDTH = 32
_MAX_LOGGED = 8
_DOT = " \u00b7 "


def draw(progress: Progress, end: RunEnded | None = None) -> RenderableType:
    """The panel; with `end`, its last state."""
    run = progress.run
    body: list[RenderableType] = [_step_line(progress, end)]
    if progress.latest is not None:
        body += [Text(), _numbers(progress, progress.latest)]
    return Panel(
        Padding(Group(*body), (1, 2)),
        title=Text(printable(run.name), style="bold"),
        title_align="left",
        subtitle=Text(f"{printable(run.layout)}{_DOT}{printable(run.device)}{_attempt(run.attempt)}", style="dim"),
        subtitle_align="right",
        border_style="dim" if end is None or end.code == 0 else "yellow",
        width=MAX_WIDTH,
        padding=0,
    )


def _attempt(attempt: int) -> str:
    return f"{_DOT}attempt {attempt}" if attempt > 1 else ""


def _step_line(progress: Progress, end: RunEnded | None) -> RenderableType:
    step = progress.latest.step if progress.latest else progress.run.step
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(width=len(f"step {progress.run.steps} of {progress.run.steps}"))
    row.add_column(ratio=1)
    row.add_column(justify="right", min_width=14)
    row.add_row(
        Text.assemble("step ", (str(step), "bold"), f" of {progress.run.steps}"),
        ProgressBar(total=progress.run.steps, completed=step, complete_style="cyan", finished_style="cyan"),
        _outlook(progress, end),
    )
    return row


def _outlook(progress: Progress, end: RunEnded | None) -> Text:
    if end is not None:
        return Text(f"{end.name.lower()} ({end.code})", style="green" if end.code == 0 else "yellow")
    if progress.latest is None:
        return Text("first step ...", style="dim")
    seconds = progress.seconds_left
    return Text("" if seconds is None else f"{duration(seconds)} left")


def _numbers(progress: Progress, record: StepRecord) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", min_width=8, no_wrap=True)
    table.add_column(min_width=22, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_row("loss", _value(f"{record.loss:.4f} nats per token"), _spark(list(progress.losses)))
    if (held_out := progress.held_out) is not None:
        shape = _spark(list(progress.held_out_bits)).append(f"  step {held_out.step}", style="dim")
        table.add_row("held-out", _value(f"{held_out.held_out_bits_per_byte:.4f} bits per byte"), shape)
    table.add_row("speed", _value(count(record.tokens_per_second, "tokens/s")), _pace(record))
    table.add_row("model", _value(quantity(record.model_flops_per_second, "FLOP/s")), _utilisation(progress, record))
    table.add_row("memory", _value(memory(record.memory_bytes)), Text("peak of the first rank", style="dim"))
    table.add_row("seen", _value(count(record.tokens, "tokens")), _update(progress, record))
    for name, value in list(progress.logged.items())[:_MAX_LOGGED]:
        table.add_row(Text(printable(name), overflow="ellipsis"), _value(f"{value:.4g}"), Text())
    if (num_others := len(progress.logged) - _MAX_LOGGED) > 0:
        table.add_row(Text("..."), Text(f"{num_others} more in metrics.jsonl", style="dim"), Text())
    return table


def _pace(record: StepRecord) -> Text:
    return Text(f"{quantity(record.step_seconds, 's')} a step", style="dim")


def _value(text: str) -> Text:
    number, _, unit = text.partition(" ")
    return Text.assemble((f"{number:>7} ", "bold"), unit)


def _spark(values: Sequence[float]) -> Text:
    return Text(sparkline(values, width=_SPARK_WIDTH), style="cyan")


def _utilisation(progress: Progress, record: StepRecord) -> Text:
    share = "" if record.utilisation is None else f"{100 * record.utilisation:.1f} % of peak{_DOT}"
    return Text(f"{share}{printable(progress.run.flop_convention)}", style="dim", overflow="ellipsis")


def _update(progress: Progress, record: StepRecord) -> Text:
    text = Text(f"learning rate {record.learning_rate:.3g}{_DOT}gradient norm {record.gradient_norm:.3g}", style="dim")
    if progress.num_skipped:
        text.append(f"{_DOT}{progress.num_skipped} skipped", style="yellow")
    return text
