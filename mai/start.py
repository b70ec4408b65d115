"""From a checked recipe to running ranks, and what is said when they are done.

Under torchrun or Slurm this process is one rank; in a plain shell it starts them. A door, like `cli.py`: it may import
every room, and does so where it needs them, so that mistakes in a recipe are told before torch is loaded.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launch.early_signals import end_unsaved_when_told
from launch.environment import this_place
from mai.errors import EnvironmentMismatchError, ExitCode, MaiError, ParityError, UsageError, error_of
from mai.log import log
from mai.optimizer.parameter_groups import check_names
from mai.parallel.place import ALONE, Place
from mai.recipe import Recipe, load, override, rules, shrink
from mai.run_folder import RunFolder, naming_storage_errors
from mai.workers import Workers

if TYPE_CHECKING:
    from mai.certify.trial import Trial
    from mai.train.run import Run

DeviceChoice = Literal["auto", "cpu", "cuda"]


def train(
    name: str,
    overrides: tuple[str, ...],
    *,
    run: Path | None,
    device: DeviceChoice,
    stop_at: int | None,
    dry_run: bool,
    shrunk: bool,
    require_certificate: bool,
) -> ExitCode:
    """Train the recipe, as one rank or as the launcher of all; raises the MaiError of what keeps it from starting."""
    place = this_place()
    recipe = _recipe_to_train(name, overrides, place, shrunk=shrunk, require_certificate=require_certificate)
    command = [name, *overrides, *(["--shrink"] if shrunk else [])]
    folder = RunFolder(run or Path("runs") / recipe.name)
    if place:
        return _as_rank(recipe, folder, place, device, stop_at=stop_at, dry_run=dry_run)

    folder.refuse_if_busy()
    end_unsaved_when_told()
    kind, ranks = _ranks_here(recipe, device)
    rules.check(recipe, world_size=ranks)
    if (code := _prepare_if_missing(recipe, command)) is not ExitCode.COMPLETE:
        return code
    from mai.train.farewell import farewell
    from mai.train.rank import train as train_rank

    folder.create()
    attempt = folder.begin_attempt()
    code = _run(
        ranks,
        lambda place: train_rank(
            recipe, folder, place=place, device=kind, attempt=attempt, stop_at=stop_at, dry_run=dry_run
        ),
        folder,
        attempt,
        recipe,
    )
    if code is ExitCode.COMPLETE and not dry_run:
        try:
            sys.stdout.write(farewell(recipe, folder, device=kind, command=["mai", "train", *command]))
        except MaiError as error:  # the run is complete, whatever became of its data since
            log.warning("%s", error)
    return code


def generate(
    folder: RunFolder, prompt: str, *, layout: Literal["one", "trained"], device: DeviceChoice, **options: object
) -> ExitCode:
    """Print what the folder's newest checkpoint says after the prompt, from one rank or from those of its layout."""
    from mai.engine import device as devices

    recipe = recipe_of(folder)
    kind = devices.choose(device)
    devices.prepare(kind)
    from mai.train import sample

    recipe = sample.one_rank(recipe) if layout == "one" else sample.one_copy(recipe)
    # Not the run's own folder, whose records are of its training; kept where its log explains a failure.
    scratch = Path(tempfile.mkdtemp(prefix="mai-generate-"))
    code = _run_aside(
        recipe.parallel.model_ranks,
        lambda place: sample.speak(recipe, folder, prompt, place=place, device=kind, **options),  # type: ignore[arg-type]
        scratch,
        recipe,
    )
    if code is ExitCode.COMPLETE:
        shutil.rmtree(scratch)
    return code


def certify(name: str, overrides: tuple[str, ...], *, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare the recipe's layout, shrunk, with one rank, and write the certificate, which comes back too.

    Raises ParityError where they differ; where a rank fails, what it failed with, and no certificate is left."""
    if this_place():
        raise UsageError("mai certify starts its own ranks: start it once, and not under torchrun or srun")
    recipe = override.apply(load.find(name)(), overrides)
    check_names(recipe)
    small = shrink.shrink(recipe)
    rules.check(small)
    from mai.engine import device as devices

    devices.prepare("cpu")
    from mai.certify import certificate, certificate_text, gather
    from mai.certify.require import default_path
    from mai.certify.subject import code, subject

    path, tried = default_path(recipe), {"certified": subject(recipe), "code": code()}
    # An older one must not outlive a trial that finds something else, or does not come to its end.
    with naming_storage_errors(path):
        path.unlink(missing_ok=True)
    # Kept where its logs explain a failure.
    scratch = Path(tempfile.mkdtemp(prefix="mai-certify-"))
    for line in certificate_text.subject_lines(recipe, small):
        say(line)
    evidence = gather.gather(small, scratch, start=partial(_start_trial, scratch), say=say)
    value = certificate.certificate(recipe, small, evidence, **tried)
    certificate.write(value, path)
    shutil.rmtree(scratch)
    if evidence.wrong is not None:
        raise ParityError("\n".join([*certificate_text.wrong_lines(evidence), f"certificate, marked failed: {path}"]))
    for line in certificate_text.passed_lines(value):
        say(line)
    say(f"certificate: {path}")
    return value


def build_ranks(recipe: Recipe, world_size: int | None, *, rank: int | None, progress: bool) -> list[dict[str, Any]]:
    """Build ranks of the real model without memory; what each holds. Raises ParityError where shapes.py differs."""
    if world_size is None:
        raise UsageError("--build needs to know how many ranks there are: add --gpus, --ranks or parallel.data")
    if rank is not None and rank >= world_size:
        raise UsageError(f"--rank {rank}: there are ranks 0 to {world_size - 1}")
    from rich.progress import track

    from mai.check.boxes import telling_ranks
    from mai.parallel.layout import Layout

    ranks = telling_ranks(Layout.of(recipe.parallel, world_size)) if rank is None else [rank]
    chunks = [ranks[begin : begin + _RANKS_AT_ONCE] for begin in range(0, len(ranks), _RANKS_AT_ONCE)]
    build = partial(_build_some, recipe=recipe, world_size=world_size)
    hidden = not (progress and sys.stderr.isatty())
    with Workers(min(os.cpu_count() or 1, len(ranks) // _RANKS_A_WORKER)) as workers:
        built = workers.in_order(build, chunks)
        shown = track(built, "build", total=len(chunks), transient=True, disable=hidden)
        return [one for some in shown for one in some]


# A worker imports torch and Megatron-Core first, which takes as long as some 40 ranks.
_RANKS_A_WORKER, _RANKS_AT_ONCE = 64, 8


def _build_some(ranks: Sequence[int], *, recipe: Recipe, world_size: int) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from mai.engine import device as devices

    devices.prepare("cpu")
    from mai.check.build_without_memory import build_ranks
    from mai.parallel.layout import Layout

    return [asdict(one) for one in build_ranks(recipe, Layout.of(recipe.parallel, world_size), ranks)]


def import_hf(
    source: Path, run: Path, overrides: tuple[str, ...], *, progress: bool, workers: int | None
) -> dict[str, Any]:
    """Make a run folder of a Hugging Face folder; says what was imported."""
    from dataclasses import asdict

    from mai.engine import device as devices

    devices.prepare("cpu")
    from mai.train.hugging_face import import_run

    return asdict(import_run(source, RunFolder(run), overrides, progress=progress, workers=workers))


def export_hf(run: Path, out: Path, *, step: int | None, progress: bool, workers: int | None) -> dict[str, Any]:
    """Make a Hugging Face folder of a run; says what was exported."""
    from mai.engine import device as devices

    folder = RunFolder(run)
    recipe = recipe_of(folder)
    devices.prepare("cpu")
    from mai.train.hugging_face import export_run

    return export_run(recipe, folder, out, step=step, progress=progress, workers=workers)


def open_run(recipe: Recipe, folder: str | Path, *, device: DeviceChoice = "auto") -> "AbstractContextManager[Run]":
    """A run to stand in, from a script or a notebook; under torchrun or Slurm every rank opens it.

    Leaving the `with` saves and says how it ended; leaving it by an exception saves nothing, and says that.

    Example:
        with mai.open_run(recipe, "runs/probe") as run:
            for result in run.steps():
                print(result.step, result.loss)
    """
    from mai.engine import device as devices

    kind = devices.choose(device)
    devices.prepare(kind)
    from mai.train.run import running

    return running(recipe, RunFolder(Path(folder)), place=this_place() or ALONE, device=kind)


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe that a run folder was trained with."""
    from mai.observe.show import summary

    summary(folder.path)  # raises what is wrong with the folder, naming runs nearby
    return load.from_json((folder.path / "recipe.json").read_text(encoding="utf-8"))


def _start_trial(scratch: Path, trial: "Trial", work: Callable[[Place], ExitCode]) -> None:
    code = _run_aside(trial.num_ranks, work, scratch, trial.recipe)
    if code is not ExitCode.COMPLETE:
        raise error_of(code, f"{trial.title}: did not come to the end; logs: {scratch / _ASIDE}")


_ASIDE = "ranks"


def _run_aside(ranks: int, work: Callable[[Place], ExitCode], scratch: Path, recipe: Recipe) -> ExitCode:
    """Ranks whose records belong to no run: they lie in a folder inside of `scratch`."""
    folder = RunFolder(scratch / _ASIDE)
    folder.create()
    return _run(ranks, work, folder, folder.begin_attempt(), recipe)


def _run(ranks: int, work: Callable[[Place], ExitCode], folder: RunFolder, attempt: int, recipe: Recipe) -> ExitCode:
    """Ranks on this machine, forked from this process."""
    from launch.job import Job
    from launch.local import run_ranks

    job = Job(
        num_ranks=ranks,
        rank_main=partial(_rank_main, work),
        folder=folder,
        attempt=attempt,
        closing_seconds=recipe.resilience.closing_seconds,
    )
    return run_ranks(job)


def _recipe_to_train(
    name: str, overrides: tuple[str, ...], place: Place | None, *, shrunk: bool, require_certificate: bool
) -> Recipe:
    """Overridden, shrunk if asked to, and checked against the ranks that there are."""
    world_size = place.world_size if place else None
    recipe = load.find(name)()
    if require_certificate:
        from mai.certify.require import require

        words = shrink.before_shrinking(overrides) if shrunk else overrides
        whole = override.apply(recipe, words, world_size=None if shrunk else world_size)
        require(whole, command=shlex.join(["mai", "certify", name, *words]))
    if shrunk and (place is None or place.rank == 0):
        for sentence in shrink.left_out(recipe, overrides):
            log.warning("--shrink leaves out %s", sentence)
    apply = shrink.apply if shrunk else override.apply
    recipe = apply(recipe, overrides, world_size=world_size)
    check_names(recipe)
    return recipe


def _as_rank(
    recipe: Recipe, folder: RunFolder, place: Place, device: DeviceChoice, *, stop_at: int | None, dry_run: bool
) -> ExitCode:
    from mai.engine import device as devices
    from mai.log import set_up

    kind = devices.choose(device)
    devices.prepare(kind)
    from mai.train.rank import train as train_rank

    set_up(place.rank)
    return train_rank(recipe, folder, place=place, device=kind, stop_at=stop_at, dry_run=dry_run)


def _rank_main(work: Callable[[Place], ExitCode], place: Place) -> int:
    from mai.log import set_up

    set_up(place.rank)
    return int(work(place))


def _ranks_here(recipe: Recipe, device: DeviceChoice) -> tuple[Literal["cpu", "cuda"], int]:
    """The device, and how many ranks this machine is to start; makes Megatron-Core importable for that device."""
    import torch

    from mai.engine import device as devices

    kind, parallel = devices.choose(device), recipe.parallel
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    smallest = rules.smallest_world(parallel)
    ranks = parallel.model_ranks * parallel.data if parallel.data else smallest * max(1, gpus // smallest)
    if kind == "cuda" and ranks > gpus:
        raise EnvironmentMismatchError(
            f"parallel.tensor={parallel.tensor} x parallel.context={parallel.context} x "
            f"parallel.pipeline={parallel.pipeline} x parallel.data={ranks // parallel.model_ranks} "
            f"takes {ranks} ranks, one GPU each, and this machine has {gpus}; lower them, or use --device cpu"
        )
    devices.prepare(kind)
    return kind, ranks


def _prepare_if_missing(recipe: Recipe, command: Sequence[str]) -> ExitCode:
    """Prepare the data in a process of its own: it starts threads and workers, and ranks are forked from this one."""
    if (Path(recipe.data.folder) / "dataset.json").exists():
        return ExitCode.COMPLETE
    done = subprocess.run([sys.executable, "-m", "mai", "prepare", *command], check=False)
    return ExitCode(done.returncode) if done.returncode in set(ExitCode) else ExitCode.CRASH
