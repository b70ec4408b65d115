"""What one rank does from start to end, and with which exit code."""

from mai.engine.device import DeviceKind
from mai.errors import ExitCode
from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.train.foreign_errors import foreign_errors_named
from mai.train.run import running


def train(
    recipe: Recipe,
    folder: RunFolder,
    *,
    place: Place,
    device: DeviceKind,
    attempt: int | None = None,
    stop_at: int | None = None,
    dry_run: bool = False,
) -> ExitCode:
    """Run the recipe to its end, or to step `stop_at`; all ranks must call. Raises the MaiError that stopped it.

    `dry_run` builds everything, joins the ranks, loads the checkpoint, and stops before the first step."""
    with (
        foreign_errors_named(),
        running(recipe, folder, place=place, device=device, attempt=attempt, dry_run=dry_run) as run,
    ):
        if stop_at is None or run.state.step < stop_at:
            for result in run.steps():
                if result.step == stop_at:
                    break
    return run.exit_code
