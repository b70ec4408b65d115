import subprocess
import sys
from pathlib import Path

import pytest

from mai.errors import ExitCode, RecipeError
from mai.recipe import Recipe, load
from recipes.debug.tiny import tiny
from tests.house.sources import ROOT

HEAD = "from mai.recipe import *\nfrom tests.unit.recipe.samples import small\n"


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(HEAD + text)
    return file


def test_a_recipe_is_found_by_its_bare_name() -> None:
    assert load.find("tiny")() == tiny()


def test_names_come_with_their_one_line_summaries() -> None:
    assert load.names()["tiny"] == "Seconds on a laptop; what the tests train."


def test_a_recipe_is_found_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "def mine(steps: int = 3) -> Recipe:\n    return small()\n")
    assert load.find(f"{file}:mine")().name == "small"


def test_a_file_may_be_named_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "def mine() -> Recipe:\n    return small()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load.find("mine.py:mine")(), Recipe)


def test_a_file_may_define_dataclasses_of_its_own(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from mai.recipe import Recipe\n"
        "from tests.unit.recipe.samples import small\n"
        "@dataclass\n"
        "class Size:\n"
        "    width: int\n"
        "def mine() -> Recipe:\n"
        "    return small()\n"
    )
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert isinstance(load.find(f"{file}:mine")(), Recipe)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("tinny", ["tinny: no such recipe; did you mean tiny?"]),
        ("zzz", ["zzz: no such recipe; there are", "tiny", "path/to/file.py:function"]),
        ("train.steps=5", ["train.steps=5: name the recipe first, then path=value"]),
        ("nowhere.py:mine", ["nowhere.py: No such file or directory; write path/to/file.py:function"]),
        ("nowhere:mine", ["nowhere:mine: not a Python file"]),
        ("nowhere/", ["nowhere/: not a Python file"]),
        (":", [":: not a Python file"]),
    ],
)
def test_a_name_that_leads_nowhere_is_told_what_there_is(name: str, messages: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load.find(name)
    assert caught.value.code == ExitCode.CONFIG
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("def mine() -> Recipe:\n    return small()\n", ":mime", "mine.py: has no mime; it has mine"),
        ("x = 1\n", ":mine", "it has no function that is annotated `-> Recipe` and needs no arguments"),
        ("def mine() -> Recipe:\n    return small()\n", "", "mine.py: says no function; write "),
        ("def mine() -> Recipe:\n    return small()\n", ":", "mine.py:mine"),
        ("mine = 3\n", ":mine", "mine is of type int, not a function that returns a Recipe"),
        ("def mine(width, *, depth):\n    return small()\n", ":mine", "mine.py:3: mine needs width, depth; a recipe"),
        ("def mine():\n    return 3\n", ":mine", "mine.py:3: mine returned int, not a Recipe"),
        ("def mine():\n    return (\n", ":mine", "mine.py:4: '(' was never closed"),
        ("import nothing_like_it\n", ":mine", "mine.py:3: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("\nraise ValueError('no luck')\n", ":mine", "mine.py:4: ValueError: no luck"),
        ("def mine():\n\n    return 1 / 0\n", ":mine", "mine.py:5: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", ":mine", "mine.py:4: SystemExit: 3"),
        ("def mine():\n    return mine()\n", ":mine", "mine.py:4: RecursionError: "),
    ],
)
def test_a_file_that_gives_no_recipe_is_told_the_line_and_the_reason(
    text: str, suffix: str, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load.find(f"{file}{suffix}")()
    assert message in str(caught.value)


def test_a_file_that_is_not_text_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(RecipeError, match=r"mine\.py"):
        load.find(f"{file}:mine")


def test_what_the_recipe_breaks_is_told_with_its_line(tmp_path: Path) -> None:
    text = "def mine():\n    small()\n    return TrainConfig(\n        steps=0, batch_tokens=-1)\n"
    file = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load.find(f"{file}:mine")()
    assert [told.partition("mine.py:")[2] for told in caught.value.violations] == [
        "5: train.steps=0: must be at least 1; the nearest valid value is 1",
        "5: train.batch_tokens=-1: must be at least 1; the nearest valid value is 1",
    ]


def test_rules_that_the_function_checks_itself_are_told_with_its_line(tmp_path: Path) -> None:
    text = (
        "from dataclasses import replace\nfrom mai.recipe import rules\n"
        "def mine():\n    rules.check(replace(small(), parallel=ParallelConfig(pipeline=3)))\n"
    )
    file = write(tmp_path, text)
    with pytest.raises(RecipeError, match=r"mine\.py:6: model\.num_layers=4, parallel\.pipeline=3"):
        load.find(f"{file}:mine")()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `recipes` of a person's own, where `in_package` finds it before ours."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    return folder


def in_package(package: Path, script: str) -> str:
    """What a fresh interpreter prints that finds this package `recipes` first."""
    setup = f"import sys; sys.path[:0] = [{str(package.parent)!r}, {str(ROOT)!r}]\nfrom mai.recipe import load\n"
    catch = f"try:\n    {script}\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    result = subprocess.run([sys.executable, "-c", setup + catch], capture_output=True, text=True, check=False)
    assert not result.stderr
    return result.stdout


def test_only_recipe_functions_have_names(package: Path) -> None:
    functions = (
        "def one() -> Recipe: ...\n"
        "def two(size: int = 1, *, wide: bool = False) -> 'recipe.Recipe':\n    'The second.\\n\\n    More.'\n"
        "def needs(size: int) -> Recipe: ...\n"
        "def needs_too(*, size: int) -> Recipe: ...\n"
        "def other() -> int: ...\n"
        "def unsaid(): ...\n"
        "def _private() -> Recipe: ...\n"
        "class Three:\n    def inside() -> Recipe: ...\n"
        "raise ImportError('nobody imports me to list names')\n"
    )
    (package / "sizes.py").write_text('"""Of the file."""\n' + functions)
    (package / "_drafts.py").write_text("def draft() -> Recipe: ...\n")
    (package / "README.md").write_text("def readme() -> Recipe: ...\n")
    listed = in_package(package, "print(dict(load.names()))")
    assert listed == "{'one': 'Of the file.', 'two': 'The second.'}\n"


def test_two_recipes_with_one_name_are_an_error_that_names_both(package: Path) -> None:
    for name in ("first", "second"):
        (package / f"{name}.py").write_text(f"{HEAD}def same() -> Recipe: ...\ndef {name}() -> Recipe: ...\n")
    for script in ("load.names()", "load.find('same')"):
        told = in_package(package, script)
        assert told.startswith("RecipeError same: two recipes have this name")
        assert "first.py:3" in told
        assert "second.py:3" in told
    assert in_package(package, "load.find('first')") == ""


def test_a_broken_file_hinders_only_its_own_recipes(package: Path) -> None:
    (package / "good.py").write_text(HEAD + "def good() -> Recipe:\n    return small()\n")
    (package / "broken.py").write_text("def broken() -> Recipe:\n    return (\n")
    assert in_package(package, "print(load.find('good')().name)") == "small\n"
    for script in ("load.names()", "load.find('broken')"):
        assert "broken.py:2: '(' was never closed" in in_package(package, script)


def test_finding_a_recipe_imports_its_own_file_only(package: Path) -> None:
    (package / "good.py").write_text(HEAD + "def good() -> Recipe:\n    return small()\n")
    (package / "loud.py").write_text("print('imported')\ndef loud() -> Recipe: ...\n")
    assert in_package(package, "load.names(); print(load.find('good')().name)") == "small\n"
