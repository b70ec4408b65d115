"""A run folder's record of its course, and what is measured from it.

The caller reads the folder; what it holds is looked at here, and a line that says less than it must is an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from mai.errors import ExitCode, PlanError
from mai.plan.goodput.failures import failure_names
from mai.plan.goodput.measured import ASKED_FOR, Attempt, Measured

_COMMITTED, _STARTED, _RESUMED = "checkpoint committed", "started", "resumed"

Kind = TypeVar("Kind")
Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The lines of a run folder, by number of the attempt where there is a file of each."""

    name: str
    """The name of the run folder."""
    events: Mapping[int, Sequence[Line]]
    metrics: Sequence[Line]
    """All of them, undone steps included."""
    codes: Mapping[int, int | None]
    """Exit codes of the attempts that ended; None where nobody was left to say."""


def measured(record: Record) -> Measured:
    """What the run lost and when it failed; raises PlanError where it took no step, or a file says less than it must.

    Example:
        measured(record_of(Path("runs/mine"))).goodput  # mai/cli_plan.py reads the folder
    """
    if not record.events:
        others = ", ".join(failure_names())
        raise PlanError(f"{record.name}: no run folder of mai; name one, a .toml file, or a list that ships: {others}")
    if not record.metrics:
        raise PlanError(f"{record.name}: metrics.jsonl holds no step; there is no goodput to measure")
    steps = [_Step.of(line, f"{record.name}: metrics.jsonl") for line in record.metrics]
    if lost := {step.attempt for step in steps} - record.events.keys():
        raise PlanError(f"{record.name}: metrics.jsonl has steps of attempt {min(lost)}, and there are no events of it")
    # The last word on a step counts, and none behind the step that the run stands at.
    kept = {step.number: step.seconds for step in steps}
    useful = sum(seconds for number, seconds in kept.items() if number <= steps[-1].number)
    return Measured(
        name=record.name,
        attempts=_attempts(record, steps),
        useful_seconds=useful,
        lost_seconds=sum(step.seconds for step in steps) - useful,
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """A line of metrics.jsonl."""

    number: int
    attempt: int
    seconds: float
    ended: float

    @staticmethod
    def of(line: Line, file: str) -> "_Step":
        return _Step(
            number=_value(line, "step", int, file),
            attempt=_value(line, "attempt", int, file),
            seconds=float(_value(line, "step_seconds", (int, float), file)),
            ended=_time(line, file),
        )


def _attempts(record: Record, steps: Sequence[_Step]) -> list[Attempt]:
    """On the run's own clock."""
    attempts: list[Attempt] = []
    first_try: float | None = None
    stood_still, was_asked = 0.0, False
    taken: dict[int, list[_Step]] = {number: [] for number in sorted(record.events)}
    for step in steps:
        taken[step.attempt].append(step)
    for number, its_steps in taken.items():
        file, events = f"{record.name}: events-{number}.jsonl", record.events[number]
        start = next((line for line in events if _value(line, "kind", str, file) == _STARTED), None)
        if first_try is None and start is not None:
            first_try = _time(start, file)
        interruption = _interruption(record, number)
        if its_steps:
            if first_try is None or start is None:
                raise PlanError(f"{file}: no line of kind {_STARTED}, and the attempt took steps")
            if attempts and was_asked:
                stood_still = first_try - attempts[-1].stopped
            saves = [line for line in events if _value(line, "kind", str, file) == _COMMITTED]
            resumed = [_value(line, "step", int, file) for line in events if line["kind"] == _RESUMED]
            attempts.append(
                Attempt(
                    ranks=_value(start, "ranks", int, file),
                    started=first_try - stood_still,
                    first_step=its_steps[0].ended - its_steps[0].seconds - stood_still,
                    stopped=max([its_steps[-1].ended, *(_time(line, file) for line in saves)]) - stood_still,
                    interrupted_by=interruption,
                    step_seconds=[step.seconds for step in its_steps],
                    began_at=resumed[-1] if resumed else 0,
                    saved_steps=[_value(line, "step", int, file) for line in saves],
                )
            )
        if its_steps or interruption is None:
            first_try, was_asked = None, interruption is None
    return attempts


def _interruption(record: Record, number: int) -> ExitCode | None:
    """A job that was killed whole leaves no word: a peer was lost."""
    if number not in record.codes:
        return None
    code = record.codes[number]
    if code is None:
        return ExitCode.PEER_LOST
    if code not in list(ExitCode):
        raise PlanError(f"{record.name}: terminal-{number}.json: code={code}: no exit code of mai")
    return None if code in ASKED_FOR else ExitCode(code)


def _time(line: Line, file: str) -> float:
    text = _value(line, "time", str, file)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise PlanError(f"{file}: time={text}: must be a time, as 2026-01-31T12:00:00.000+00:00") from None


def _value(line: Line, key: str, kind: type[Kind] | tuple[type[Kind], ...], file: str) -> Kind:
    value = line.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PlanError(f"{file}: {key}={value}: must be {_WORDS[kind]}")
    return value


_WORDS = {int: "a whole number", (int, float): "a number", str: "text"}
