"""`mai plan` as people meet it: real processes, their exit codes, and what they print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from mai.plan.report.schema import FILE
from tests.house.sources import ROOT
from tests.jobs import processor_seconds
from tests.unit.plan.goodput.recorder import Recorder

WORDS = ["mai1_500b", "--hardware", "h100", "--gpus", "15000"]


def mai(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mai", "plan", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def least_processor_seconds(*words: str) -> float:
    """Of `mai` with these words, of a few tries: the first may write bytecode, and others share the cores."""
    seconds = []
    for _ in range(3):
        before = processor_seconds()
        subprocess.run([sys.executable, "-m", "mai", *words], cwd=ROOT, capture_output=True, check=True, timeout=120)
        seconds.append(processor_seconds() - before)
    return min(seconds)


def test_a_plan_needs_neither_torch_nor_numpy() -> None:
    script = (
        "import sys\nfrom mai.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'numpy', 'megatron', 'rich'} & sys.modules.keys()), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "plan", *WORDS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("mai1-500b on h100: 14,976 GPUs of 15,000, 24 spares\n")
    assert result.stderr == "\n"


@pytest.mark.alone
def test_a_plan_takes_at_most_four_times_as_long_as_a_check_and_a_search_of_all_layouts_nine_times_a_plan() -> None:
    """Twice and five times are usual; benchmarks/plan_speed.py has the seconds."""
    experts = ("plan", "mai1_500b_moe", *WORDS[1:])
    check, plan, search = (
        least_processor_seconds(*words)
        for words in (("check", "mai1_500b_moe", "--gpus", "15000"), experts, (*experts, "--search"))
    )
    assert plan < 4 * check
    assert search < 9 * plan


def test_exit_code_and_verdict_agree() -> None:
    fits = mai("tiny", "--hardware", "h100", "--gpus", "8")
    assert (fits.returncode, fits.stderr) == (0, "")
    assert any(line.startswith("fits: ") for line in fits.stdout.splitlines())
    # All 495B parameters on the 8 GPUs of one node.
    one_node = [f"parallel.{axis}=1" for axis in ("context", "pipeline", "virtual_stages", "data")]
    one_node.append("parallel.stages=even")
    misfit = mai(*WORDS, *one_node)
    assert (misfit.returncode, misfit.stderr) == (80, "")
    assert any(line.startswith("DOES NOT FIT: ") for line in misfit.stdout.splitlines())
    found = json.loads(mai(*WORDS, *one_node, "--json").stdout)
    assert found["memory"]["fits"] is False
    assert found["gpus"] == {"booked": 15_000, "in_use": 8, "spares": 14_992, "most_data": 1_872}


def test_json_has_every_stage_and_what_the_user_stated() -> None:
    found = json.loads(mai(*WORDS, "--price", "2.1", "--carbon", "400", "--json").stdout)
    assert [stage["stage"] for stage in found["memory"]["stages"]] == list(range(26))
    assert found["cluster"]["price"]["gpu_hour"] == 2.1
    assert found["cluster"]["sources"]["price.gpu_hour"] == "--price"
    assert found["phase"]["money"] == pytest.approx(found["phase"]["gpu_hours"] * 2.1)
    assert found["phase"]["carbon_kilograms"] == pytest.approx(found["phase"]["energy_kilowatt_hours"] * 0.4)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--after", "mai1_500b"],
        ["--search"],
        ["parallel.data=35"],
        ["--failures", "llama3", "--prove-schedule", "--placement"],
    ],
    ids=str,
)
def test_whatever_json_prints_keeps_to_the_published_schema(words: list[str]) -> None:
    """parallel.data=35 does not share out its batch: an error."""
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(json.loads(mai(*WORDS, *words, "--json").stdout))


def test_phases_of_one_run_add_up() -> None:
    words = ["--hardware", "h100", "--gpus", "15000", "--json"]
    first, second = (json.loads(mai(name, *words).stdout)["phase"] for name in ("mai1_500b", "mai1_500b_256k"))
    run = json.loads(mai("mai1_500b_256k", *words, "--after", "mai1_500b").stdout)["run"]
    assert run["phases"] == ["mai1-500b", "mai1-500b-256k"]
    for key in ("tokens", "days", "gpu_hours", "money", "energy_kilowatt_hours"):
        assert run[key] == pytest.approx(first[key] + second[key])
    assert run["carbon_kilograms"] is None
    lines = mai("mai1_500b_256k", *words[:-1], "--after", "mai1_500b").stdout.splitlines()
    assert any(line.split() == ["this", "phase", "whole", "run", "per", "million", "tokens"] for line in lines)


def test_what_is_unknown_is_printed_so_and_null_in_json() -> None:
    words = ["mai1_500b", "--hardware", "h200", "--gpus", "15000"]
    lines = mai(*words).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("money")] == [["money", "unknown", "unknown"]]
    assert json.loads(mai(*words, "--json").stdout)["phase"]["money"] is None


def test_every_mistake_about_the_hardware_is_named_with_exit_code_80(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text('gpu = "h900"\ngpus_per_node = 0\n')
    result = mai("tiny", "--hardware", str(file), "--json")
    assert result.returncode == 80
    violations = json.loads(result.stdout)["error"]["violations"]
    keys = [told.removeprefix(f"{file}: ").split(":")[0] for told in violations]
    assert keys == ["gpu=h900", "gpus_per_node=0", "scale_up", "scale_out"]


def test_a_software_that_is_not_there_is_named_with_those_that_are() -> None:
    result = mai(*WORDS, "--software", "mia")
    assert result.returncode == 80
    assert "mia: no such software; did you mean mai? There are" in result.stderr


def test_failures_tell_how_to_save_how_many_spares_and_what_is_left() -> None:
    lines = mai(*WORDS, "--failures", "llama3").stdout.splitlines()
    heads = [line[:13].rstrip() for line in lines[-18:]]
    for head in ("failures", "saves", "spares", "restart", "goodput", "of all time", "takes", "what if"):
        assert head in heads
    both = json.loads(mai(*WORDS, "--failures", "llama3", "--json").stdout)["goodput"]["expected"]
    assert 100 * both["closed_form"] == pytest.approx(100 * both["simulated"], abs=0.3)
    assert sum(both["parts"].values()) == pytest.approx(1)


def test_a_run_folder_is_a_list_of_failures_and_is_replayed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    for steps in (95, 41, 120):
        recorder.live(steps)
    words = ["tiny", "--hardware", "h100", "--gpus", "8", "--failures", str(tmp_path / "run")]
    result = mai(*words)
    assert result.stderr == ""
    told = " ".join(result.stdout.split())
    assert "3 interruptions in 11.5 minutes on 16 GPUs, which leaves open one in 1.48 minutes to one in 14.0" in told
    replayed = json.loads(mai(*words, "--json").stdout)["goodput"]["replayed"]
    assert replayed["interruptions"] == 3
    assert 100 * replayed["own_predicted"] == pytest.approx(100 * replayed["own_measured"], abs=2)


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    result = mai(*WORDS, "--failures", str(tmp_path))
    assert (result.returncode, result.stdout) == (80, "")
    assert f"{tmp_path}: no run folder of mai; name one, a .toml file, or a list that ships: " in result.stderr


def test_failures_that_are_not_there_are_named_with_those_that_are() -> None:
    result = mai(*WORDS, "--failures", "llama4")
    assert (result.returncode, result.stdout) == (80, "")
    assert "llama4: no such failures; did you mean llama3? There are" in result.stderr


@pytest.mark.slow
def test_the_schedule_of_15_000_ranks_is_proved() -> None:
    result = mai(*WORDS, "--prove-schedule")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].startswith("proved: every rank reaches the end of its step")
    schedule = json.loads(mai(*WORDS, "--prove-schedule", "--json").stdout)["schedule"]
    assert (schedule["holds"], schedule["ranks"], schedule["findings"]) == (True, 14_976, [])


@pytest.mark.slow
def test_placement_tells_where_ranks_lie_and_what_leaves_a_node() -> None:
    lines = mai(*WORDS, "--placement").stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("stage 25")] == [
        ["stage", "25", "14400-14975", "1800-1871", "56-58"]
    ]
    found = json.loads(mai(*WORDS, "--placement", "--json").stdout)
    gpu, node, leaf = found["traffic"]["levels"]
    assert gpu["bytes"] > node["bytes"] > leaf["bytes"] > 0
    assert found["map"]["spares"]["first_node"] == found["map"]["nodes"] == 1872
    assert node["busiest"]["gb_per_second"] == node["busiest"]["bytes"] / 1e9 / found["step"]["seconds"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--search", "--failures", "llama3"], "--search ranks many layouts; --failures is of one"),
        (["--search", "--prove-schedule"], "--search ranks many layouts; --prove-schedule is of one"),
        (["--search", "--placement"], "--search ranks many layouts; --placement is of one"),
        (["--software", "megatron_2025", "--prove-schedule"], "leave --software out"),
        (["--software", "megatron_2025", "--placement"], "--placement is of what mai calls; leave --software out"),
    ],
)
def test_options_that_exclude_each_other_are_refused(words: list[str], told: str) -> None:
    result = mai(*WORDS, *words)
    assert result.returncode == 2
    assert told in result.stderr


def test_a_budget_that_is_too_small_exits_80() -> None:
    result = mai("mai1_500b", "--hardware", "h100", "--gpus", "1000")
    assert result.returncode == 80
    assert "parallel.data=36 needs 14976 at least; parallel.data=none fills what there is" in result.stderr
    filled = mai("mai1_500b", "parallel.data=none", "--hardware", "h100", "--gpus", "1000")
    assert filled.stdout.startswith("mai1-500b on h100: 832 GPUs of 1,000, 168 spares\n")


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    result = mai(*WORDS, "--html", str(file))
    assert result.stdout == mai(*WORDS).stdout
    html = file.read_text()
    assert f"<p>mai plan {' '.join(WORDS)} --html {file}</p>" in html
    assert html.count("<svg") == 4
    mai(*WORDS, "--failures", "llama3", "--placement", "--html", str(file))
    assert file.read_text().count("<svg") == 4 + 5 + 1
    assert not [word for word in ("http", "src=", "@import", "url(", "<script", "<link") if word in html]
    refused = mai(*WORDS, "--html", str(tmp_path / "no" / "plan.html"))
    assert refused.returncode == 2
    assert "No such file or directory" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [[], ["--hardware", "h100", "--imbalance", "0.5"], ["--hardware", "h100", "--imbalance", "nan"]],
)
def test_a_wrong_command_line_exits_2_with_json_where_it_was_asked_for(words: list[str]) -> None:
    result = mai("tiny", *words, "--json")
    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["name"]) == (2, "USAGE")
    assert error["violations"][0] in result.stderr
    assert mai("tiny", *words).stdout == ""


@pytest.mark.slow
def test_a_search_prints_words_that_check_takes() -> None:
    searched = mai(*WORDS, "--search", "--json")
    assert (searched.returncode, searched.stderr) == (0, "")
    found = json.loads(searched.stdout)
    command = [sys.executable, "-m", "mai", "check", "mai1_500b", *found["best"][0]["overrides"], "--gpus", "15000"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert mai("mai1_500b", "--hardware", "h100", "--gpus", "64", "--search").returncode == 80


def test_more_than_a_gpu_is_sold_with_does_not_fit_though_nobody_says_what_of_it_is_usable() -> None:
    words = ["mai1_500b_moe", "--hardware", "maia100", "--gpus", "15000"]
    may = mai(*words)
    assert may.returncode == 0
    assert any(line.startswith("may fit: ") for line in may.stdout.splitlines())
    misfit = mai(*words, "--imbalance", "2")
    assert misfit.returncode == 80
    assert "more than the 64.00 GiB that the GPU is sold with" in " ".join(misfit.stdout.split())


def test_an_imbalance_of_a_model_without_experts_is_said_to_change_nothing() -> None:
    plain, told = mai(*WORDS), mai(*WORDS, "--imbalance", "2")
    assert told.stdout == plain.stdout
    assert told.stderr == "--imbalance changes nothing: mai1-500b has no experts\n"


def test_no_line_is_wider_than_a_terminal() -> None:
    words = ["mai1_500b", "parallel.context=1", "parallel.data=72", "--hardware", "h100", "--gpus", "15000"]
    for made in (mai(*WORDS), mai(*words), mai(*WORDS, "--search")):
        assert [line for line in made.stdout.splitlines() if len(line) > 120] == []
