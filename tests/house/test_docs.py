"""What the documents say is so: links lead somewhere, commands parse, the drawn tree is the tree."""

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from mai.cli import cli
from mai.plan.goodput.failures import load_failures
from mai.plan.telling.item_words import MEMORY_ITEMS, WORDS
from mai.recipe import fingerprint
from recipes.debug.tiny import tiny
from tests.house.sources import ROOT, name, python_files

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[!.]*/README.md")])
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name)


def _blocks(path: Path) -> list[str]:
    """The code blocks of a document, without their fences."""
    return FENCED.findall(path.read_text(encoding="utf-8"))


def _commands(path: Path) -> list[str]:
    text = "".join(_blocks(path)).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return [line for line in lines if line.startswith(("mai ", "make "))]


def _examples(name: str) -> list[str]:
    """The commands that a command's own help shows."""
    lines = [line.strip() for line in (cli.commands[name].help or "").splitlines()]
    return [line for line in lines if line.startswith(f"mai {name} ")]


@every_document
def test_relative_links_lead_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", path.read_text(encoding="utf-8")))
    files = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith(("#", "mailto:"))]
    dead = [file for file in files if not (path.parent / file).exists()]
    assert not dead, f"{name(path)} links to {dead}"


@every_document
def test_quoted_commands_parse(path: Path) -> None:
    wrong = [f"{command}: {reason}" for command in _commands(path) if (reason := _complaint(command))]
    assert not wrong, f"{name(path)}:\n" + "\n".join(wrong)


GUIDES = ROOT / "docs" / "guides"
GUIDE, REFERENCE = GUIDES / "plan_a_run.md", GUIDES / "plan_reference.md"
ANSWERED = re.compile(r"^```bash\n(mai plan [^\n]*)\n```\n+```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
ANSWERS = [pair for path in DOCUMENTS for pair in ANSWERED.findall(path.read_text(encoding="utf-8"))]


def test_the_first_run_is_of_the_recipe_that_there_is() -> None:
    """Whoever changes `tiny` runs the page anew: its losses are numbers that a reader compares with."""
    page = (ROOT / "docs/guides/first_run.md").read_text()
    assert f"recipe {fingerprint(tiny())[:12]}" in page
    rates = [float(rate) for rate in re.findall(r"learning[_ ]rate ([0-9.]+)", page)]
    assert len(rates) == 3
    assert max(rates) <= tiny().optimizer.learning_rate


_QUOTED = [command for path in DOCUMENTS for command in _commands(path) if command.startswith("mai plan ")]
PLANS = dict.fromkeys([*_QUOTED, *_examples("plan")]).keys() - {command for command, _ in ANSWERS}
"""Whose answers are not shown."""


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(PLANS))
def test_quoted_plans_can_be_made(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = _plan(command, tmp_path, monkeypatch)
    told = capsys.readouterr()
    assert told.err == ""
    assert code == (80 if "does not fit" in command.partition("#")[2] else 0), told.out


@pytest.mark.slow
@pytest.mark.parametrize(("command", "shown"), ANSWERS)
def test_what_a_document_shows_of_an_answer_is_in_it(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line and in order; dots stand for lines that are left out."""
    assert _plan(command, tmp_path, monkeypatch) == 0
    printed = iter(capsys.readouterr().out.splitlines())
    wrong = [line for line in shown.splitlines() if line != "..." and line not in printed]
    assert not wrong, "not in the answer, or not at this place"


def _plan(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """With the cluster file that the guide shows, where the guide puts it."""
    (folder / "clusters").mkdir()
    (cluster,) = re.findall(r"^```toml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (folder / "clusters" / "ours.toml").write_text(cluster)
    monkeypatch.chdir(folder)
    words = shlex.split(command, comments=True)
    return int(cli.main(words[1:], prog_name="mai", standalone_mode=False))


@pytest.mark.slow
def test_the_guides_pictures_are_those_that_the_planner_draws(tmp_path: Path) -> None:
    """But for rounding; `python docs/guides/plan_a_run/draw.py` draws them anew."""
    runpy.run_path(str(GUIDE.with_suffix("") / "draw.py"))["draw"](tmp_path)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [file.name for file in drawn] == sorted(file.name for file in GUIDE.with_suffix("").glob("*.svg"))
    number = re.compile(r"-?\d+\.\d+")
    for file in drawn:
        now, shown = file.read_text(), (GUIDE.with_suffix("") / file.name).read_text()
        assert number.sub("", now) == number.sub("", shown), f"{file.name} is another picture now"
        moved = [float(new) - float(old) for new, old in zip(number.findall(now), number.findall(shown), strict=True)]
        assert max(map(abs, moved)) < 0.1, f"{file.name} has moved"


def test_the_reference_shows_a_list_of_failures_that_can_be_read(tmp_path: Path) -> None:
    (table,) = re.findall(r"^```toml\n(.*?)^```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    file = tmp_path / "ours.toml"
    file.write_text(table)
    assert load_failures(file).restart.detect_seconds == 60


def test_the_reference_explains_every_row_of_a_plan() -> None:
    guide = REFERENCE.read_text(encoding="utf-8")
    rows = {f"| {words} | `{item}` |" for item, words in WORDS.items()}
    rows |= {f"| {item} | `items_bytes.{item}` |" for item in MEMORY_ITEMS if item != "outside the allocator"}
    assert not {row for row in rows if row not in guide}


def test_the_drawn_tree_is_the_tree() -> None:
    if not ARCHITECTURE.exists():
        pytest.skip("docs/architecture.md is not written yet")
    trees = [block for block in _blocks(ARCHITECTURE) if block.startswith("mai/\n")]
    assert len(trees) == 1, "docs/architecture.md draws the tree once, in a code block whose first line is mai/"
    drawn = _paths(trees[0])
    files = {name(file) for file in python_files("mai") if file.name != "__init__.py"}
    missing = [path for path in drawn if not (ROOT / path).exists()]
    assert not missing, f"drawn, but not there: {missing}"
    assert not files - set(drawn), f"there, but not drawn: {sorted(files - set(drawn))}"


def _complaint(command: str) -> str:
    """Why a quoted command would be refused; empty when it parses."""
    program, *words = shlex.split(command, comments=True)
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = {word for word in words if "=" not in word} - targets
        return f"the Makefile has no {sorted(unknown)}" if unknown else ""
    return _mai_complaint(cli, words)


def _mai_complaint(command: click.Command, words: list[str]) -> str:
    """Walk down click's own tree of commands; options are parsed, values are not looked at."""
    context = click.Context(command)
    try:
        _, rest, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    if not isinstance(command, click.Group) or not rest:
        return ""
    child = command.get_command(context, rest[0])
    return f"no such command: {rest[0]}" if child is None else _mai_complaint(child, rest[1:])


def _paths(tree: str) -> list[str]:
    """Every path of a tree drawn with two spaces a level, one name a line, folders ending in a slash."""
    stack: list[str] = []
    paths = []
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth:] = [line.split()[0]]
        paths.append("".join(stack))
    return paths
