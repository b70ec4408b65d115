"""`mai train --require-certificate` and `--shrink` as people meet them: real processes in a folder of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import write_corpus
from tests.house.sources import ROOT

FILE = """
from dataclasses import replace
from mai.recipe import ParallelConfig, Recipe
from tests.unit.recipe.samples import small

def own() -> Recipe:
    return replace(small(), parallel=ParallelConfig(data=1))

def grouped() -> Recipe:
    base = own()
    return replace(base, optimizer=replace(base.optimizer, groups=("embedding.*:frozen",)))

def large() -> Recipe:
    base = small()
    return replace(
        base,
        name="large",
        model=replace(base.model, num_layers=128, hidden_size=16384, ffn_hidden_size=53248, num_heads=128,
                      num_kv_heads=8, head_size=128, vocab_size=131072),
        data=replace(base.data, tokenizer="nowhere.json", sequence_length=8192),
        train=replace(base.train, steps=100000, batch_tokens=8192 * 64 * 120),
        evaluate=replace(base.evaluate, sequences=64 * 120),
        parallel=ParallelConfig(tensor=8, sequence=True, pipeline=16, data=120),
    )
"""

Mai = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mai(tmp_path: Path) -> Mai:
    """`mai WORDS` in a folder that holds recipes.py."""
    (tmp_path / "recipes.py").write_text(FILE)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mai", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
        )

    return run


def test_a_run_without_a_certificate_is_refused_with_the_command_that_makes_one(mai: Mai, tmp_path: Path) -> None:
    refused = mai("train", "recipes.py:own", "train.steps=3", "--require-certificate", "--device", "cpu")
    assert refused.returncode == 84
    assert re.search(r"certificates/small/[0-9a-f]{12}/certificate.json: there is none", refused.stderr)
    assert "make one with: mai certify recipes.py:own train.steps=3" in refused.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()


def test_shrinking_tells_what_it_leaves_out(mai: Mai) -> None:
    refused = mai("train", "recipes.py:grouped", "--shrink", "train.batch_tokens=1", "--device", "cpu")
    assert refused.returncode == 80
    assert "--shrink leaves out optimizer.groups=embedding.*:frozen" in refused.stderr


@pytest.mark.slow
def test_the_certificate_of_a_layout_lets_it_and_no_other_train(mai: Mai, tmp_path: Path) -> None:
    certified = mai("certify", "recipes.py:own", "--json")
    assert certified.returncode == 0, certified.stderr
    (written,) = tmp_path.glob("certificates/small/*/certificate.json")
    assert json.loads(certified.stdout) == json.loads(written.read_text())
    other = mai("train", "recipes.py:own", "parallel.data=2", "--require-certificate", "--device", "cpu")
    assert other.returncode == 84
    assert "parallel.data=2, certified 1" in other.stderr
    corpus = write_corpus(tmp_path / "corpus")
    words = [f"data.documents={corpus}", "data.folder=prepared", "data.held_out_fraction=0.1"]
    same = mai("train", "recipes.py:own", *words, "--require-certificate", "--device", "cpu", "--dry-run")
    assert same.returncode == 0, same.stderr


@pytest.mark.slow
def test_a_layout_of_15360_ranks_trains_on_8_processes(mai: Mai, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    done = mai(
        "train",
        "recipes.py:large",
        f"data.documents={corpus}",
        "data.held_out_fraction=0.1",
        "--shrink",
        "--device",
        "cpu",
    )
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "runs/large-shrunk/run.json").read_text())
    assert run["layout"] == {**run["layout"], "tensor": 2, "pipeline": 2, "data": 2}
    metrics = [json.loads(line) for line in (tmp_path / "runs/large-shrunk/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 20
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.1
