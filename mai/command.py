"""What the commands of the command line share: how they fail, how they print, and the arguments that several take."""

import contextlib
import json
import math
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from mai.errors import ExitCode, MaiError, PlanError, RecipeError, UsageError, exit_code_of
from mai.log import point_nowhere
from mai.written_number import whole_number

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose every failure is a paragraph on stderr (and JSON on stdout, with --json) and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except MaiError as error:
            told = error.violations if isinstance(error, RecipeError | PlanError) else [str(error)]
            fail(context, error.code, told)
        except KeyboardInterrupt:
            fail(context, ExitCode.STOPPED, ["interrupted"])
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 (the last door: what nobody foresaw still gets one clear line)
            if isinstance(error, OSError) and exit_code_of(error) is ExitCode.STORAGE:
                fail(context, ExitCode.STORAGE, [f"{error.filename or 'standard output'}: {error.strerror}"])
            again = typed("--traceback")
            reason = f"unexpected error: {type(error).__name__}: {error}"
            fail(context, ExitCode.CRASH, [f"{reason} (to see where: {again})"])


class Finite(click.FloatRange):
    """A number in a range; click's own lets `nan` through, and `inf` where there is no upper end."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not finite.", param, ctx)
        return number


class Commands(click.Group):
    """The group that gives its commands the class above, listed in the order they are written here."""

    command_class = Command
    group_class = type

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)


def fail(context: click.Context, code: ExitCode, violations: Sequence[str]) -> NoReturn:
    """Say what is wrong, one line each under a title, and leave with the code; called while the error is handled."""
    if context.find_root().params["traceback"]:
        traceback.print_exc()
    if context.params.get("as_json"):
        try:
            echo_error(code, violations)
        except OSError:  # what is wrong may be stdout itself
            point_nowhere(sys.stdout)
    click.echo(
        click.style(f"{context.command_path}: {code.name} (exit code {int(code)})", fg="red", bold=True), err=True
    )
    for violation in violations:
        click.echo(f"  - {printable(violation)}".replace("\n", "\n    "), err=True)
    context.exit(int(code))


def complain(error: click.ClickException) -> int:
    """Click's own words about a command line, with its exit code, and as JSON where that was asked for."""
    # A command line that was not understood has no parsed --json.
    if "--json" in sys.argv:
        echo_error(ExitCode(error.exit_code), [error.format_message()])
    error.show()
    return error.exit_code


def typed(*flags: str) -> str:
    """The command line of this process, with these flags as well."""
    return shlex.join(["mai", *flags, *sys.argv[1:]])


def printable(text: str) -> str:
    """Messages may quote file names: bytes that are no text, and what moves a cursor, are shown as escapes."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def echo_error(code: ExitCode, violations: Sequence[str]) -> None:
    """A failure as --json shows it."""
    echo_json({"error": {"code": int(code), "name": code.name, "violations": list(violations)}})


def recipe_arguments(function: Function) -> Function:
    """RECIPE and its overrides, as every command takes them that looks at a recipe."""
    overrides = click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
    return click.argument("recipe", metavar="RECIPE")(overrides(function))


def prices(function: Function) -> Function:
    """What only the user knows of an hour and a kilowatt-hour."""
    for option in (
        click.option("--carbon", "carbon_grams", type=Finite(min=0), help="Grams of carbon dioxide of a kWh."),
        click.option(
            "--power-price", "kilowatt_hour", type=Finite(min=0), help="Of a kWh, where --price does not include it."
        ),
        click.option(
            "--price", "gpu_hour", type=Finite(min=0), help="Of a GPU-hour, in the cluster's currency, or USD."
        ),
    ):
        function = option(function)
    return function


class WholeNumber(click.IntRange):
    """A whole number as people write it: 15000, 15k, 2e9."""

    name = "whole number"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = whole_number(value)
        return super().convert(value, parameter, context)


as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, errors included.")
workers = click.option("--workers", type=click.IntRange(min=1), help="Processes; by the cores if not given.")
shrink = click.option(
    "--shrink",
    "shrunk",
    is_flag=True,
    help="The same layout with small degrees and sizes: 8 to 16 processes, or fewer if it has fewer ranks.",
)
hardware = click.option(
    "--hardware",
    required=True,
    help="A cluster that ships with mai, such as h100, or your own .toml file (docs/guides/plan_a_run.md shows one).",
)
after = click.option(
    "--after",
    multiple=True,
    metavar="RECIPE",
    help="An earlier phase of the same run, whose costs are added; may be given several times.",
)
imbalance = click.option(
    "--imbalance",
    type=Finite(min=1),
    default=1.0,
    show_default=True,
    help="Tokens of the busiest expert rank over the mean.",
)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute; auto takes a GPU."
)


def write(file: Path, text: str) -> None:
    """Write a file that the user named; UsageError where it cannot be."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
