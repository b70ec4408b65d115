"""The scripts under examples/ run as their page says, and do what they are for."""

import importlib
import sys
from pathlib import Path

from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.jobs import on_corpus, start_program
from tests.ranks import on_ranks, port_of_own

LARGEST_NORM = 0.15


def run(_: Place, name: str, *words: str) -> None:
    importlib.import_module(f"examples.{name}").main(*words)


def words(prepared: Recipe) -> list[str]:
    return [*on_corpus(prepared), "train.steps=12", "train.batch_tokens=1024", "evaluate.sequences=8"]


def test_norms_by_layer_clips_and_logs_under_torchrun(prepared: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port_of_own()),
    ]
    command = [*torchrun, "examples/norms_by_layer.py", str(folder.path), *words(prepared), "parallel.tensor=2"]
    job = start_program(command, folder=folder.path, log=tmp_path / "said")
    try:
        assert job.exit_code(seconds=240) == 0, job.stderr
    finally:
        job.end()
    records = list(folder.read_metrics())
    assert len(records) == 12
    for record in records:
        norms = [norm for name, norm in record.items() if name.startswith("norm/")]
        assert len(norms) == 4 + 3  # layers; embedding, final norm, output layer
        clipped = [min(norm, LARGEST_NORM) for norm in norms]
        assert abs(record["gradient_norm"] - sum(norm**2 for norm in clipped) ** 0.5) < 1e-5
        assert record["loss_in_bits"] > record["loss"]


def test_train_the_top_starts_from_a_run_and_leaves_its_lower_layers(prepared: Recipe, tmp_path: Path) -> None:
    on_ranks(1, run, "train_the_top", str(tmp_path), *words(prepared))
    base, top = RunFolder(tmp_path / "base"), RunFolder(tmp_path / "top")
    taken = [event for event in top.read_events(1) if event["kind"] == "weights taken"]
    assert [event["step"] for event in taken] == [12]
    assert next(base.read_metrics())["loss"] > next(top.read_metrics())["loss"]
    judged = [record for record in top.read_metrics() if record["held_out_bits_per_byte"] is not None]
    assert len(judged) > 1
    assert ["gain_in_bits_per_byte" in record for record in judged] == [False] + [True] * (len(judged) - 1)
    assert top.read_terminal(1) is not None
