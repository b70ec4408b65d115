"""`mai check` and `mai recipes` as people meet them: real processes, their exit codes, and what they print."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT
from tests.unit.recipe.samples import experts

FILE = """
import time
from mai.recipe import Recipe
from tests.unit.recipe.samples import small

def good() -> Recipe:
    return small()

def slow() -> Recipe:
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def mai(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mai", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_two_mistakes_are_named_at_once_with_exit_code_80() -> None:
    result = mai("check", "quickstart", "parallel.tensr=3", "train.steps=-1")
    assert result.returncode == 80
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "mai check: CONFIG (exit code 80)",
        "  - parallel.tensr=3: no such field; did you mean parallel.tensor?",
        "  - train.steps=-1: must be at least 1; the nearest valid value is 1",
    ]


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], ["torch", "pydantic", "numpy", "rich"]),
        (["check", "--help"], ["torch", "pydantic", "numpy", "rich"]),
        (["recipes"], ["torch", "numpy", "rich"]),
        (["check", "quickstart"], ["torch", "numpy", "rich"]),
        (["check", "quickstart", "parallel.tensr=3"], ["torch", "numpy", "rich"]),
    ],
)
def test_what_a_command_does_not_import(words: list[str], absent: list[str]) -> None:
    script = (
        "import sys\nfrom mai.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(*sorted(set({absent}) & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert result.stderr.splitlines()[-1] == ""


def test_what_a_recipe_file_prints_goes_to_stderr(tmp_path: Path) -> None:
    file = tmp_path / "noisy.py"
    loud = "print('hello')\nfrom recipes.debug.tiny import tiny\ndef noisy() -> 'Recipe':\n    print('again')\n"
    file.write_text(f"{loud}    return tiny()\n")
    result = mai("check", f"{file}:noisy", "--json")
    assert json.loads(result.stdout)["recipe"]["name"] == "tiny"
    assert result.stderr.splitlines() == ["hello", "again"]


@pytest.mark.parametrize("words", [["check", "tiny"], ["check", "tiny", "--json"], ["check", "nobody", "--json"]])
def test_a_full_stdout_is_named_and_is_no_success(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "mai", *words]
        result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == (80 if "nobody" in words else 216)
    assert "Traceback" not in result.stderr
    assert "nobody" in words or "standard output: No space left on device" in result.stderr


def test_check_shows_every_field_and_marks_what_differs(file: Path) -> None:
    result = mai("check", f"{file}:good", "--ranks", "8", "parallel.tensor=2", "parallel.pipeline=2")
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert "  train.steps=20" in lines
    assert "* parallel.tensor=2  (default 1)" in lines
    assert "layout       8 ranks = tensor 2 x pipeline 2 x data 2" in lines
    assert "stages       Ett|ttL" in lines
    assert not [line for line in lines if line.startswith("experts")]
    assert "one step     8 sequences of 64 tokens, 4 micro-batches on each rank" in lines


def test_check_shows_context_virtual_stages_and_experts(file: Path) -> None:
    axes = "parallel.tensor=2 parallel.sequence=true parallel.context=2 parallel.pipeline=2 parallel.virtual_stages=2"
    words = f"{axes} parallel.expert=2 {experts(num_dense_layers=1)}".split()
    lines = mai("check", f"{file}:good", "--ranks", "16", *words).stdout.splitlines()
    assert "layout       16 ranks = tensor 2 x context 2 x pipeline 2 x data 2" in lines
    assert "stages       Et|t|t|tL, dealt out to 2 stages in turn, 2 to each" in lines
    assert "experts      8 a layer, 2 for each token; expert 2 x expert tensor 1 x expert data 4" in lines
    # Embedding and output; three layers of experts and a router, and one dense; attention and norms.
    expected = 2 * 512 * 64 + 3 * 8 * (3 * 64 * 64 + 64) + 3 * 64 * 128 + 4 * (3 * 64 * 64 + 2 * 64) + 64
    active = expected - 3 * 6 * 3 * 64 * 64
    assert f"parameters   {expected:,}, {active:,} of them active for a token" in lines


def test_check_without_ranks_says_which_would_do(file: Path) -> None:
    words = f"parallel.expert=4 parallel.tensor=2 parallel.sequence=true {experts()}".split()
    lines = mai("check", f"{file}:good", *words).stdout.splitlines()
    assert "layout       any multiple of 4 (tensor 2 x pipeline 1); --ranks checks one" in lines
    assert "experts      8 a layer, 2 for each token; expert 4 x expert tensor 1" in lines


def test_uneven_stages_are_shown_as_they_are_written(file: Path) -> None:
    words = ["model.num_layers=30", "parallel.pipeline=4", "parallel.stages=balanced"]
    assert "stages       Et*7|t*8|t*8|t*7L" in mai("check", f"{file}:good", *words).stdout.splitlines()
    report = json.loads(mai("check", f"{file}:good", *words, "--json").stdout)
    assert report["layout"]["stages"] == "Et*7|t*8|t*8|t*7L"


def test_flags_and_overrides_mix_in_any_order(file: Path) -> None:
    name = f"{file}:good"
    orders = [
        ["--json", name, "parallel.tensor=2", "--ranks", "4", "train.steps=7"],
        [name, "train.steps=7", "--ranks", "4", "parallel.tensor=2", "--json"],
    ]
    first, second = (mai("check", *words).stdout for words in orders)
    assert first == second
    report = json.loads(first)
    assert report["recipe"]["train"]["steps"] == 7
    assert report["layout"] == {
        "ranks": 4,
        "spares": None,
        "multiple_of": 2,
        "tensor": 2,
        "context": 1,
        "pipeline": 1,
        "virtual_stages": 1,
        "stages": "Et*4L",
        "data": 2,
        "expert": 1,
        "expert_tensor": 1,
        "expert_data": 4,
        "micro_batches": 4,
    }


def test_with_json_errors_are_json_too(file: Path) -> None:
    result = mai("check", f"{file}:good", "parallel.pipeline=3", "--json")
    assert result.returncode == 80
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["name"]) == (80, "CONFIG")
    assert [told.partition(":")[0] for told in error["violations"]] == [
        "model.num_layers=4, parallel.pipeline=3, parallel.stages=even"
    ]
    assert "model.num_layers=4" in result.stderr


def test_ranks_that_do_not_fit_exit_80(file: Path) -> None:
    result = mai("check", f"{file}:good", "parallel.tensor=2", "--ranks", "3")
    assert result.returncode == 80
    assert "3 ranks: must be a multiple of 2" in result.stderr


@pytest.mark.parametrize("words", [[], ["chek"], ["check"], ["check", "tiny", "--rank=2"], ["check", "--ranks=0"]])
def test_a_wrong_command_line_exits_2(words: list[str]) -> None:
    result = mai(*words)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_recipes_lists_names_for_people_and_programs() -> None:
    assert any(line.startswith("tiny ") for line in mai("recipes").stdout.splitlines())
    listed = json.loads(mai("recipes", "--json").stdout)
    assert {"tiny", "quickstart"} <= {entry["name"] for entry in listed}


def test_a_name_that_is_no_text_is_shown_with_escapes() -> None:
    command = [sys.executable, "-m", "mai", "check", b"\x1b[31m\xff.py:mine", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 80
    assert "  - \\x1b[31m\\udcff.py: No such file or directory" in result.stderr
    assert json.loads(result.stdout)["error"]["violations"][0].startswith("\x1b[31m\udcff.py")


def test_where_a_recipe_of_ones_own_failed_can_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def deeper():\n    return {}['width']\n\ndef mine():\n    return deeper()\n")
    quiet, loud = mai("check", f"{path}:mine"), mai("--traceback", "check", f"{path}:mine")
    assert quiet.returncode == loud.returncode == 80
    assert quiet.stderr.endswith("mine.py:2: KeyError: 'width'\n")
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_ctrl_c_exits_87_without_a_traceback(file: Path) -> None:
    command = [sys.executable, "-m", "mai", "check", f"{file}:slow"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 87
    assert told == "mai check: STOPPED (exit code 87)\n  - interrupted\n"


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more() -> None:
    script = (
        "import mai.recipe.load\n"
        "def fall_over():\n    raise ZeroDivisionError('a bug of ours')\n"
        "mai.recipe.load.names = fall_over\n"
        "from mai.cli import main\nmain()\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    quiet, loud = run("recipes"), run("--traceback", "recipes")
    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr == (
        "mai recipes: CRASH (exit code 1)\n"
        "  - unexpected error: ZeroDivisionError: a bug of ours (to see where: mai --traceback recipes)\n"
    )
    assert "Traceback" in loud.stderr
    assert json.loads(run("recipes", "--json").stdout)["error"]["name"] == "CRASH"
