"""The command line: one short function a command, which imports what it needs when it is called.

Grammar: `path=value` words change the recipe; flags say where, how long or in what form, never what is trained.
Nothing at the top of this file may import torch or pydantic, so that `mai --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from mai.cli_plan import plan
from mai.command import (
    Commands,
    WholeNumber,
    as_json,
    complain,
    device,
    echo_json,
    recipe_arguments,
    shrink,
    workers,
)
from mai.errors import ExitCode, UsageError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show where in the code an error came from.")
def cli(**_: bool) -> None:
    """Train language models on Megatron-Core, from one laptop to a cluster.

    RECIPE is a name that `mai recipes` lists, or path/to/file.py:function. Words like train.steps=50 change it; flags
    say where, how long or in what form.
    """


@cli.command()
@recipe_arguments
@click.option("--ranks", type=WholeNumber(min=1), help="Also check the layout against this many ranks.")
@click.option("--gpus", type=WholeNumber(min=1), help="A budget: check the most ranks that fit, name the spares.")
@click.option("--build", "builds", is_flag=True, help="Build every rank that differs from others, without memory.")
@click.option("--rank", type=click.IntRange(min=0), help="With --build: this rank only.")
@click.option("--explain", metavar="FIELD", help="Say what this field means, takes and holds, and nothing else.")
@as_json
def check(
    recipe: str,
    overrides: tuple[str, ...],
    *,
    ranks: int | None,
    gpus: int | None,
    builds: bool,
    rank: int | None,
    explain: str | None,
    as_json: bool,
) -> None:
    """Check a recipe against all rules and show it, without starting anything.

    Every mistake is named at once, with the nearest thing that works. What differs from the defaults is marked with *.

    \b
    Example:
      mai check quickstart train.steps=50 parallel.tensor=2 --ranks 8
      mai check mai1_500b --gpus 15000 --build
      mai check mai1_500b --explain model.window
    """
    from mai.check import check_report
    from mai.recipe import load, override, rules

    if rank is not None and not builds:
        raise UsageError("--rank says which rank --build builds; add --build")
    checked = override.apply(load.find(recipe)(), overrides, world_size=ranks)
    if explain is not None:
        return _explain(checked, explain, as_json=as_json)
    if gpus is not None:
        ranks = rules.ranks_within(checked.parallel, gpus)
        rules.check(checked, world_size=ranks)
    found = check_report.report(checked, ranks, gpus=gpus)
    if not as_json:
        for line in check_report.lines(checked, found):
            click.echo(click.style(line, bold=True) if line.startswith("*") else line)
        click.echo(click.style("no rule is broken", fg="green"))
    if builds:
        from mai import start

        found["built"] = start.build_ranks(checked, found["layout"]["ranks"], rank=rank, progress=not as_json)
    if as_json:
        return echo_json(found)
    for line in check_report.built_lines(found.get("built", [])):
        click.echo(line)
    return None


def _explain(recipe: Any, field: str, *, as_json: bool) -> None:
    from dataclasses import MISSING

    from mai.recipe import field_words

    found = field_words.explained(recipe, field)
    if as_json:
        return echo_json({name: value for name, value in found.items() if value is not MISSING})
    for line in field_words.lines(found):
        click.echo(line)
    return None


cli.add_command(plan)


@cli.command()
@as_json
def recipes(*, as_json: bool) -> None:
    """List the recipes that have a name.

    \b
    Example:
      mai recipes --json
    """
    from mai.recipe import load

    found = load.names()
    if as_json:
        return echo_json([{"name": name, "summary": summary} for name, summary in found.items()])
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {summary}")
    return None


@cli.command()
@recipe_arguments
@shrink
@click.option("--again", is_flag=True, help="Replace what another recipe prepared in the same folder.")
@workers
@as_json
def prepare(
    recipe: str, overrides: tuple[str, ...], *, shrunk: bool, again: bool, workers: int | None, as_json: bool
) -> None:
    """Turn a recipe's documents into tokens: train or load the tokenizer, hold documents out, write checked shards.

    \b
    Example:
      mai prepare quickstart data.documents=books/,notes.jsonl data.folder=data/mine
    """
    import dataclasses
    import os

    from mai.data import summary
    from mai.data.prepare import prepare as prepare_data
    from mai.evaluate.baselines import measure_baselines
    from mai.recipe import load, override
    from mai.recipe import shrink as shrinking

    checked = (shrinking if shrunk else override).apply(load.find(recipe)(), overrides)
    done = prepare_data(checked, workers=workers or os.cpu_count() or 1, again=again, progress=not as_json)
    baselines = measure_baselines(done.dataset)
    if as_json:
        return echo_json({**summary.summary(done), "baselines": dataclasses.asdict(baselines)})
    for line in summary.summary_lines(done):
        click.echo(line)
    click.echo(
        f"  held-out bits per byte to beat: {baselines.trigram_bits_per_byte:.3f} byte trigram, "
        f"{baselines.gzip_bits_per_byte:.3f} gzip"
    )
    return None


@cli.command()
@recipe_arguments
@as_json
def certify(recipe: str, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Prove that a layout changes nothing: shrunk, on CPU processes, against one rank, gradient by gradient.

    Same weights, same tokens, a few steps: every loss, every gradient and every updated weight is compared, on every
    rank that holds it. Writes certificates/NAME/FINGERPRINT/certificate.json. Exits 0, or 88 with the first parameter
    that differs and the ranks that hold it.

    \b
    Example:
      mai certify quickstart parallel.tensor=2 parallel.sequence=true
    """
    from mai import start

    say = (lambda _: None) if as_json else click.echo
    certificate = start.certify(recipe, overrides, say=say)
    if as_json:
        echo_json(certificate)


@cli.command()
@recipe_arguments
@click.option("--run", type=click.Path(path_type=Path), help="The run folder; runs/NAME if not given.")
@device
@click.option("--stop-at", type=click.IntRange(min=1), metavar="STEP", help="Stop after this step and save; exit 87.")
@click.option("--dry-run", is_flag=True, help="Build everything, join the ranks, and stop before the first step.")
@shrink
@click.option("--require-certificate", is_flag=True, help="Refuse a layout that `mai certify` has not found right.")
def train(recipe: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Train a recipe; a run folder that holds a checkpoint is resumed.

    In a plain shell this starts the ranks; under torchrun or srun it is one of them. SIGTERM saves at the next step
    and exits 210, Ctrl-C saves and exits 87.

    \b
    Example:
      mai train quickstart train.steps=50 parallel.tensor=1 --run runs/try
    """
    from mai import start

    code = start.train(recipe, overrides, **options)
    click.get_current_context().exit(int(code))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="What the model continues; empty starts a new document.")
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="The most to say.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1), default=0.95, show_default=True, help="Nucleus sampling.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--step", type=click.IntRange(min=1), help="Of which checkpoint; the newest if not given.")
@click.option(
    "--layout",
    type=click.Choice(["one", "trained"]),
    default="one",
    help="On one rank, or on the tensor and pipeline ranks of the layout that trained it.",
)
@device
@as_json
def generate(run: Path, *, layout: str, device: str, as_json: bool, prompt: str, **sampling: Any) -> None:
    """Let a trained run continue a prompt, from its newest checkpoint or that of --step.

    \b
    Example:
      mai generate runs/quickstart --prompt "def "
    """
    from mai import start
    from mai.run_folder import RunFolder

    code = start.generate(
        RunFolder(run),
        prompt,
        layout=layout,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        as_json=as_json,
        **sampling,
    )
    click.get_current_context().exit(int(code))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@as_json
def show(run: Path, *, as_json: bool) -> None:
    """Show a run: what ran, where it stands, what happened, and the loss curve.

    \b
    Example:
      mai show runs/quickstart --json
    """
    from mai.observe.show import render, summary
    from mai.run_folder import plain_json

    found = summary(run)
    if as_json:
        return click.echo(plain_json(found, indent=2))
    from rich.console import Console

    return Console().print(render(found))


@cli.group(name="import")
def import_() -> None:
    """Take a model from elsewhere into a run folder."""


@import_.command(name="hf")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@workers
@as_json
def import_hf(folder: Path, run: Path, overrides: tuple[str, ...], *, workers: int | None, as_json: bool) -> None:
    """Import a Hugging Face FOLDER (config.json, safetensors, tokenizer.json) into the run folder RUN.

    Reads safetensors and JSON only, tensor by tensor. RUN then speaks (mai generate) and can be trained on: its
    recipe.json is a recipe that starts from these weights.

    \b
    Example:
      mai import hf models/SmolLM2-135M runs/smollm2
      mai train runs/smollm2/recipe.json data.documents=books/ data.folder=data/books --run runs/more
    """
    from mai import start

    done = start.import_hf(folder, run, overrides, progress=not as_json, workers=workers)
    if as_json:
        return echo_json(done)
    click.echo(f"{run}: {done['parameters']:,} parameters from {done['tensors']:,} tensors, in {done['files']} files")
    if done["dequantised"]:
        click.echo(f"  {done['dequantised']:,} of them were quantised, and stand here as the numbers that they meant")
    for line in done["told"]:
        click.echo(f"  {line}")
    click.echo(f"Next:\n    mai generate {run}\n    mai train {done['recipe']} --run ANOTHER_FOLDER")
    return None


@cli.group()
def export() -> None:
    """Give a trained model to others."""


@export.command(name="hf")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(min=0), help="Of which checkpoint; the newest if not given.")
@workers
@as_json
def export_hf(run: Path, folder: Path, *, step: int | None, workers: int | None, as_json: bool) -> None:
    """Write the run's newest checkpoint as a Hugging Face FOLDER: config.json, safetensors, tokenizer.

    \b
    Example:
      mai export hf runs/smollm2 exports/smollm2
    """
    from mai import start

    done = start.export_hf(run, folder, step=step, progress=not as_json, workers=workers)
    if as_json:
        return echo_json(done)
    click.echo(f"{folder}: {done['num_tensors']:,} tensors of step {done['step']}, in {', '.join(done['files'])}")
    return None


def main() -> NoReturn:
    """The console script: click's own complaints exit 2, Ctrl-C before a command has begun 87."""
    try:
        code = cli.main(prog_name="mai", standalone_mode=False)
    except click.ClickException as error:
        code = complain(error)
    except click.Abort:
        code = ExitCode.STOPPED
    sys.exit(code)
