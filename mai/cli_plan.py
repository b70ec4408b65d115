"""The command `mai plan`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from mai.command import (
    Command,
    WholeNumber,
    after,
    as_json,
    echo_json,
    hardware,
    imbalance,
    prices,
    recipe_arguments,
    typed,
    write,
)
from mai.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mai.hardware.cluster import Cluster
    from mai.plan.goodput.failures import Failures
    from mai.plan.goodput.measured import Measured
    from mai.plan.goodput.run_record import Record
    from mai.plan.report.plan_values import Plan
    from mai.plan.setting.setting import Setting
    from mai.plan.software import Software
    from mai.recipe import Recipe

Kind = TypeVar("Kind")


@click.command(cls=Command)
@recipe_arguments
@hardware
@click.option("--gpus", type=WholeNumber(min=1), help="A budget: plan the most ranks that fit, name the spares.")
@click.option("--software", default="mai", show_default=True, help="Whose memory and time.")
@prices
@imbalance
@after
@click.option("--failures", metavar="NAME", help="A list such as llama3, a .toml file, or a run folder: adds goodput.")
@click.option("--prove-schedule", "proves", is_flag=True, help="Prove that the collectives of all ranks match.")
@click.option("--placement", "places", is_flag=True, help="Also which ranks lie where, and what leaves each node.")
@click.option("--search", "searches", is_flag=True, help="Rank all layouts of the model and batch instead.")
@as_json
@click.option("--html", "page_file", type=click.Path(path_type=Path), help="Also write a page with pictures.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    *,
    hardware: str,
    gpus: int | None,
    software: str,
    as_json: bool,
    page_file: Path | None,
    imbalance: float,
    after: tuple[str, ...],
    failures: str | None,
    proves: bool,
    places: bool,
    searches: bool,
    **prices: float | None,
) -> None:
    """Predict memory, time and money of a recipe on a cluster, without a GPU.

    Exits 0 if every rank fits into its GPU's memory, or may, where nobody knows how much of it a process gets, and 80
    if one does not. With --search, 0 if any layout does. With --prove-schedule, 80 too if the proof fails.

    With --failures it says how often to save, how many spares to hold, how fast to restart, and what failures leave of
    the time; docs/guides/plan_reference.md explains each line. Of a run folder it takes what was measured.

    \b
    Example:
      mai plan mai1_500b --hardware h100 --gpus 15000
      mai plan mai1_500b parallel.recompute=layer --hardware h100 --gpus 15000 --price 2.1 --html plan.html
      mai plan mai1_500b_256k --hardware h100 --gpus 15000 --after mai1_500b
      mai plan mai1_500b_moe --hardware h100 --gpus 15000 --search
      mai plan mai1_500b --hardware h100 --gpus 15000 --failures llama3
      mai plan mai1_500b --hardware h100 --gpus 15000 --prove-schedule
      mai plan mai1_500b --hardware h100 --gpus 15000 --placement
    """
    from mai.hardware.cluster import load_cluster
    from mai.plan.cost import with_prices
    from mai.plan.report import plan_report
    from mai.plan.setting import of_recipe
    from mai.plan.software import load_software
    from mai.plan.telling import plan_lines
    from mai.recipe import load, override

    of_mai = {"--prove-schedule": proves, "--placement": places}
    if searches:
        why = "--search ranks many layouts; {} is of one: leave one of both out"
        _refuse({"--html": page_file, "--failures": failures, **of_mai}, why)
    if software != "mai":
        _refuse(of_mai, "{} is of what mai calls; leave --software out")
    breaking = None if failures is None else _failures(failures)
    cluster, framework = with_prices(load_cluster(hardware), **prices), load_software(software)
    checked = override.apply(load.find(recipe)(), overrides)
    if imbalance > 1 and checked.model.experts is None:
        click.echo(f"--imbalance changes nothing: {checked.name} has no experts", err=True)
    if searches:
        _tell_ranking(checked, cluster, framework, gpus=gpus, imbalance=imbalance, as_json=as_json)

    def planned(one: "Recipe") -> tuple["Recipe", "Setting", "Plan"]:
        one = of_recipe.within(one, cluster, gpus)
        setting = of_recipe.setting_of(one, cluster, framework, imbalance=imbalance)
        return one, setting, plan_report.report(one, setting, gpus=gpus)

    checked, setting, told = planned(checked)
    if after:
        told = plan_report.of_whole_run([*(planned(load.find(name)())[2] for name in after), told])
    if breaking is not None:
        from mai.plan.goodput.goodput import goodput_of
        from mai.plan.report.planned_run import planned_run

        told = replace(told, goodput=goodput_of(breaking[0], planned_run(told, cluster), own=breaking[1]))
    told = _with_programs(checked, setting, told, proves=proves, places=places)
    if page_file is not None:
        _write_page(page_file, told, checked, setting)
    _tell(told, plan_lines.lines, as_json=as_json)
    holds = told.schedule is None or told.schedule.holds
    click.get_current_context().exit(0 if told.memory.fits and holds else int(ExitCode.CONFIG))


def _tell_ranking(
    recipe: "Recipe", cluster: "Cluster", software: "Software", *, gpus: int | None, imbalance: float, as_json: bool
) -> NoReturn:
    from mai.plan.report.ranking import ranked
    from mai.plan.telling import ranking_lines

    found = ranked(recipe, cluster, software, gpus=gpus, imbalance=imbalance)
    _tell(found, ranking_lines.lines, as_json=as_json)
    click.get_current_context().exit(0 if found.best else int(ExitCode.CONFIG))


def _write_page(file: Path, told: "Plan", recipe: "Recipe", setting: "Setting") -> None:
    from mai.plan.report.scaling import scaling
    from mai.plan.telling.plan_page import page

    write(file, page(told, scaling(recipe, setting), command=typed(), day=date.today()))


def _tell(found: Kind, lines: Callable[[Kind], Iterator[str]], *, as_json: bool) -> None:
    """Values as JSON, or as the lines that people read."""
    from mai.plan.published import published

    if as_json:
        return echo_json(published(found))
    for line in lines(found):
        click.echo(line)
    return None


def _refuse(flags: Mapping[str, object], why: str) -> None:
    """Raise UsageError at the first flag that is given."""
    for flag, given in flags.items():
        if given:
            raise UsageError(why.format(flag))


def _with_programs(recipe: "Recipe", setting: "Setting", told: "Plan", *, proves: bool, places: bool) -> "Plan":
    """With the blocks that follow from what every rank calls, which takes as long as all others."""
    if not (proves or places):
        return told
    from mai.plan.communication.of_step import programs

    of_stages = programs(recipe, setting.layout)
    if proves:
        from mai.plan.proof.of_schedule import placed, prove_schedule

        told = replace(told, schedule=placed(prove_schedule(of_stages, setting.layout), setting.layout))
    if places:
        from mai.plan.placement.map_and_traffic import map_and_traffic

        took, booked = told.step.time.seconds, told.gpus.booked
        ranks, traffic = map_and_traffic(of_stages, setting, step_seconds=took, gpus_booked=booked)
        told = replace(told, map=ranks, traffic=traffic)
    return told


def _failures(name: str) -> "tuple[Failures, Measured | None]":
    """The failures of a list, or of a run folder with what was measured there."""
    from mai.plan.goodput.failures import failure_names, load_failures

    if name in failure_names() or not Path(name).is_dir():
        return load_failures(name), None
    from mai.plan.goodput.own_failures import own_failures
    from mai.plan.goodput.run_record import measured

    run = measured(record_of(Path(name)))
    return own_failures(run), run


def record_of(path: Path) -> "Record":
    """What a run folder holds of its course, for mai/plan, which reads no folder."""
    from mai.plan.goodput.run_record import Record
    from mai.run_folder import RunFolder

    folder = RunFolder(path)
    attempts = folder.attempts()
    ended = attempts[:-1] if folder.is_busy() is not None else attempts
    ends = {number: folder.read_terminal(number) for number in ended}
    return Record(
        name=str(path),
        events={number: list(folder.read_events(number)) for number in attempts},
        metrics=list(folder.read_steps()),
        codes={number: end.code if end else None for number, end in ends.items()},
    )
