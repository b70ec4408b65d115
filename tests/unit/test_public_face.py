"""`import mai`: a handful of names, light until they are touched, and a loop to stand in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mai
from mai.checkpoint.store import committed_steps
from mai.recipe import Recipe
from tests.jobs import on_corpus

SCRIPT = """
import sys
import mai
from recipes.debug.tiny import tiny

recipe = mai.override(tiny(), sys.argv[2:])
with mai.open_run(recipe, sys.argv[1], device="cpu") as run:
    for result in run.steps():
        print("seen", result.step)
        if result.step == 3:
            break
"""


def test_every_public_name_resolves() -> None:
    for name in mai.__all__:
        assert getattr(mai, name) is not None


def test_importing_mai_loads_neither_torch_nor_pydantic() -> None:
    program = "import sys, mai; print([name for name in ('torch', 'pydantic', 'megatron') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="open_run"):
        mai.Trainer  # noqa: B018


def test_leaving_the_loop_saves_and_says_so(prepared: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-c", SCRIPT, str(run), *on_corpus(prepared)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("seen")] == ["seen 1", "seen 2", "seen 3"]
    assert committed_steps(run / "checkpoints") == [3]
    assert json.loads((run / "terminal-1.json").read_text())["name"] == "STOPPED"
