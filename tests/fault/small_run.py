"""The run that the fault tests disturb: a small model in small steps, and many of them."""

from collections.abc import Sequence
from pathlib import Path

from mai.recipe import Recipe
from tests.jobs import Job, on_corpus

SMALL = (
    "model.num_layers=2",
    "train.batch_tokens=256",
    "train.steps=2000",
    "parallel.micro_batch_sequences=1",
    "evaluate.sequences=4",
)


def train(prepared: Recipe, folder: Path, *changes: str, flags: Sequence[str] = ()) -> list[str]:
    """`mai train` of that run, with these changes."""
    words = [*on_corpus(prepared), *SMALL, *changes]
    overrides = {word.partition("=")[0]: word for word in words}
    return ["train", "tiny", *overrides.values(), "--run", str(folder), "--device", "cpu", *flags]


def committed(folder: Path) -> list[int]:
    """Steps whose checkpoint is committed."""
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


def assert_failed_well(job: Job, code: int, name: str) -> None:
    """The exit code, the paragraph, the run folder's word of it, and nothing left running."""
    assert job.exit_code() == code, job.stderr
    assert f"{name} (exit code {code})" in job.stderr
    assert "Traceback" not in job.stderr
    assert (job.terminal.code, job.terminal.name) == (code, name)
    assert job.terminal.suggestion
    assert job.left_behind() == []


def resumed_at(job: Job) -> int | None:
    """The step of the checkpoint that the newest attempt began from; None if it began with random weights."""
    events = job.events("resumed")
    return events[0]["step"] if events else None
