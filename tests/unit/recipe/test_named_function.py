import sys
from pathlib import Path

import pytest

from mai.errors import ExitCode, RecipeError
from mai.recipe import load
from mai.recipe.named_function import call_function, check_function, load_function
from tests.unit.recipe.samples import small

TEXT = """
calls = []

def loss(x):
    return 2 * x

def other(): ...

class Layer:
    pass

def _private(): ...

if True:
    def inside(): ...
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


def test_a_function_is_loaded(file: Path) -> None:
    assert load_function(f"{file}:loss", knob="objective.loss")(3) == 6
    assert callable(load_function(f"{file}:_private", knob="model.layer"))


def test_a_file_may_be_named_relative_to_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_function("mine.py:loss", knob="objective.loss")(3) == 6


def test_two_functions_of_a_file_share_its_module(file: Path) -> None:
    loss, other = (load_function(f"{file}:{name}", knob="model.layer") for name in ("loss", "other"))
    assert loss.__globals__["other"] is other


def test_a_recipe_and_its_functions_may_stand_in_one_file_that_runs_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from mai.recipe import Recipe\nfrom tests.unit.recipe.samples import small\n"
        "def mine() -> Recipe:\n    return small()\n"
        "def loss(): ...\n"
    )
    builder = load.find(f"{file}:mine")
    loss = load_function(f"{file}:loss", knob="objective.loss")
    assert builder() == loss.__globals__["mine"]()
    assert load_function(f"{file}:loss", knob="objective.loss") is loss


def test_files_of_one_name_are_two_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f():\n    return {folder!r}\n")
    found = [load_function(f"{tmp_path}/{folder}/mine.py:f", knob="model.layer")() for folder in ("one", "two")]
    assert found == ["one", "two"]


def test_a_file_imports_those_beside_it_and_leaves_them_to_no_other_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"NAME = {folder!r}\n")
        (tmp_path / folder / "mine.py").write_text("from sizes import NAME\n\ndef f():\n    return NAME\n")
    before = list(sys.path)
    found = [load_function(f"{tmp_path}/{folder}/mine.py:f", knob="model.layer")() for folder in ("one", "two")]
    assert found == ["one", "two"]
    assert sys.path == before
    assert "sizes" not in sys.modules


def test_a_recipe_imports_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("from tests.unit.recipe.samples import small\n")
    (tmp_path / "mine.py").write_text(
        "from mai.recipe import Recipe\nfrom shared import small\n\ndef mine() -> Recipe:\n    return small()\n"
    )
    assert load.find(f"{tmp_path}/mine.py:mine")() == small()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write path/to/file.py:function"),
        ("loss", "write path/to/file.py:function"),
        ("{file}", "write path/to/file.py:function"),
        ("{file}:", "write path/to/file.py:function"),
        ("{folder}:loss", "write path/to/file.py:function"),
        ("{folder}/other.py:loss", "other.py: No such file or directory; write path/to/file.py:function"),
        ("{file}:los", "mine.py: has no los; it has loss"),
        ("{file}:zzz", "mine.py: has no zzz; it has loss, other"),
        ("{file}:calls", "mine.py: has no calls; it has"),
        ("{file}:Layer", "mine.py: has no Layer; it has"),
        ("{file}:inside", "mine.py: has no inside; it has"),
    ],
)
def test_a_text_that_names_no_function_is_told_what_there_is(text: str, message: str, file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_function(text.format(file=file, folder=file.parent))
    assert message in str(caught.value)
    assert caught.value.code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "mine.py:1: "),
        ("x = 1\n", "has no f; it has no function at its top level"),
        ("def f(): ...\n\nimport nothing_like_it\n", "mine.py:3: ModuleNotFoundError: No module named"),
        ("def f(): ...\nraise ValueError('no luck')\n", "mine.py:2: ValueError: no luck"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_the_field_the_line_and_the_reason(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(RecipeError) as caught:
            load_function(f"{file}:f", knob="model.layer")
        assert str(caught.value).startswith(f"model.layer={file}:f: {file}")
        assert message in str(caught.value)


def test_looking_a_function_up_imports_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(): ...\nraise ValueError('imported')\n")
    check_function(f"{file}:f")


def test_what_a_function_raises_when_called_is_told_with_its_line(file: Path) -> None:
    assert call_function(f"{file}:loss", 3, knob="model.layer") == 6
    with pytest.raises(RecipeError, match=r"^model\.layer=.*:loss: .*mine\.py:5: TypeError: unsupported operand"):
        call_function(f"{file}:loss", None, knob="model.layer")
