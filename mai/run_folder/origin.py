"""Whose weights a run begins with: another run's, or those of one of its checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from mai.run_folder.folder import CHECKPOINTS, STEP_NAME, RunFolder


@dataclass(frozen=True, slots=True)
class Origin:
    run: RunFolder
    step: int | None
    """Which checkpoint; None for the newest."""


def origin_of(start_from: str) -> Origin:
    """What `checkpoint.start_from` names: a run folder, RUN/checkpoints, or RUN/checkpoints/step-N. Reads nothing."""
    path = Path(start_from).expanduser()
    step = STEP_NAME.fullmatch(path.name)
    if step and path.parent.name == CHECKPOINTS:
        return Origin(RunFolder(path.parent.parent), int(step[1]))
    return Origin(RunFolder(path.parent if path.name == CHECKPOINTS else path), None)
