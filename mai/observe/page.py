"""Draws what `mai show` found: plain values in, something that rich prints out.

The values come from files that anybody may have changed: every text is made printable, and a value of the wrong kind
is shown as it is.
"""

from typing import Any, TypeGuard

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mai.observe.curve import curve
from mai.observe.wording import count, event_text, memory, printable, quantity
from mai.run_folder import DRY_RUN

_SHOWN_EVENTS = 12
_CURVE_HEIGHT = 11
_MAX_WIDTH = 100
_DOT = " \u00b7 "
_STATE_STYLES = {"running": "green", "ended": "bold", "died": "red", "never started": "yellow"}
_TITLES = {"loss": "training loss, nats per token", "held_out_bits_per_byte": "held-out text, bits per byte"}


def render(summary: dict[str, Any]) -> RenderableType:
    """A page: the run, where it stands, what happened, its curves."""
    parts: list[RenderableType] = [Text(), _heading(summary), Text(), _facts(summary)]
    if summary["events"]:
        parts += [Text(), _title("what happened"), _events(summary["events"])]
    for name, points in summary["curves"].items():
        if len(points) > 1:
            parts += [Text(), _title(_TITLES.get(name, printable(name))), Text(), _Curve(points)]
    if summary["problems"]:
        parts += [Text(), _title("problems")]
        parts += [Text(printable(problem), style="yellow") for problem in summary["problems"]]
    return Padding(Group(*parts, Text()), (0, 2))


def _title(text: str) -> Text:
    return Text(text, style="bold cyan")


def _heading(summary: dict[str, Any]) -> Text:
    name = printable(summary["recipe"].get("name", "a run"))
    state = summary["state"]
    return Text.assemble(
        (name, "bold"), "  ", (state, _STATE_STYLES[state]), (f"  {printable(summary['folder'])}", "dim")
    )


def _facts(summary: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10, no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "run": _identity(summary["run"]),
        "model": _model(summary["run"], summary["recipe"]),
        "layout": _pairs(summary["run"].get("layout")),
        "versions": _pairs(summary["run"].get("versions")),
        "stands at": _place(summary["status"], summary["latest"]),
        "measures": _measures(summary["latest"]),
        "saved": _saved(summary["checkpoint_steps"]),
        **_ending(summary),
    }
    for label, text in rows.items():
        if text:
            table.add_row(label, Text("\n".join(map(printable, text.splitlines()))))
    return table


def _identity(run: dict[str, Any]) -> str:
    commit, _, changes = str(run.get("commit") or "").partition("+")
    return _joined(
        run.get("run_id"),
        f"created {_moment(run['created'])}" if "created" in run else None,
        f"commit {commit[:12]}{' with changes' if changes else ''}" if commit else None,
        f"recipe {str(run['recipe_fingerprint'])[:12]}" if "recipe_fingerprint" in run else None,
    )


def _model(run: dict[str, Any], recipe: dict[str, Any]) -> str:
    model = recipe.get("model")
    shape = f"{model.get('num_layers')} layers, {model.get('hidden_size')} wide" if isinstance(model, dict) else None
    size = run.get("num_parameters")
    return _joined(count(size, "parameters") if _is_number(size) else size, shape)


def _place(status: dict[str, Any], latest: dict[str, Any] | None) -> str:
    where = {**(latest or {}), **status}
    if "step" not in where:
        return "before the first step"
    steps = f" of {where['steps']}" if "steps" in where else ""
    tokens = where.get("tokens")
    return _joined(
        f"step {where['step']}{steps}",
        where.get("phase"),
        count(tokens, "tokens seen") if _is_number(tokens) else None,
        f"heartbeat {_moment(where['heartbeat'])}" if "heartbeat" in where else None,
    )


def _measures(latest: dict[str, Any] | None) -> str:
    """The newest step's numbers; a loss that is none is the string "NaN"."""
    wordings = {
        "loss": lambda value: f"loss {value:.4f}",
        "tokens_per_second": lambda value: count(value, "tokens/s"),
        "model_flops_per_second": lambda value: quantity(value, "FLOP/s"),
        "utilisation": lambda value: f"{100 * value:.1f} % of peak",
        "memory_bytes": memory,
    }
    values = latest or {}
    found = {name: values[name] for name in wordings if values.get(name) is not None}
    return _joined(
        *(wordings[name](value) if _is_number(value) else f"{name} {value}" for name, value in found.items())
    )


def _saved(checkpoint_steps: list[int]) -> str:
    if not checkpoint_steps:
        return "no checkpoint yet"
    return f"newest checkpoint at step {checkpoint_steps[-1]}, {len(checkpoint_steps)} kept"


def _ending(summary: dict[str, Any]) -> dict[str, str]:
    """The rows that say how it ended, or that it has not."""
    if (owner := summary["owner"]) is not None:
        since = f"since {_moment(owner['since'])}" if "since" in owner else None
        return {"owner": _joined(f"pid {owner.get('pid')} on {owner.get('host')}", since)}
    if summary["state"] == "died":
        return {
            "ended": "without a word: killed (kill -9, out of memory), or the machine stopped",
            "way out": f"start it again with the same command; it goes on {_next_start(summary['checkpoint_steps'])}",
        }
    if summary["state"] == "never started":
        return {}
    terminal = summary["attempts"][-1]["terminal"]
    return {
        "ended": f"{terminal['name']} ({terminal['code']}) at step {terminal['step']}{_dry(terminal)}",
        "culprit": _pairs(terminal["culprit"]),
        "evidence": str(terminal["evidence"]).strip(),
        "way out": str(terminal["suggestion"]),
    }


def _dry(terminal: dict[str, Any]) -> str:
    return ", a dry run" if terminal["phase"] == DRY_RUN else ""


def _next_start(checkpoint_steps: list[int]) -> str:
    return f"after step {checkpoint_steps[-1]}" if checkpoint_steps else "from the beginning"


def _events(events: list[dict[str, Any]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=19)
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    if len(events) > _SHOWN_EVENTS:
        table.add_row("", "", Text(f"... {len(events) - _SHOWN_EVENTS} earlier (--json shows them)", style="dim"))
    for event in events[-_SHOWN_EVENTS:]:
        fields = {name: value for name, value in event.items() if name not in ("attempt", "time", "kind")}
        text = event_text(str(event.get("kind", "event")), fields)
        table.add_row(printable(_moment(event.get("time", ""))), f"attempt {event['attempt']}", Text(text))
    return table


class _Curve:
    """A plot as wide as the terminal lets it be."""

    def __init__(self, points: list[tuple[float, float]]) -> None:
        self._xs, self._ys = zip(*points, strict=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(30, min(options.max_width, _MAX_WIDTH))
        for line in curve(self._xs, self._ys, width=width, height=_CURVE_HEIGHT):
            yield Text(line, no_wrap=True)


def _joined(*parts: Any) -> str:
    return _DOT.join(str(part) for part in parts if part is not None)


def _pairs(value: Any) -> str:
    """A dict as words: {"tensor": 2, "data": 4} is "tensor 2, data 4"."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items() if entry is not None)
    return "" if value is None else str(value)


def _moment(time: object) -> str:
    """2026-01-31T12:00:00.123+00:00 as 2026-01-31 12:00:00."""
    return str(time)[:19].replace("T", " ")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)
