"""What the tests on CPU processes claim of a run holds on a GPU."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.jobs import Job, on_corpus, start
from tests.parity.test_resume import checkpoint_as_bits, steps_as_bits

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

Launch = Callable[..., Job]
STEPS = 20
COMPARED_STEPS = 10

MODELS = ("tiny", "experts_every_axis", "latent_every_axis")
ONE_RANK = (
    "parallel.tensor=1",
    "parallel.sequence=false",
    "parallel.context=1",
    "parallel.pipeline=1",
    "parallel.virtual_stages=1",
    "parallel.stages=even",
    "parallel.data=1",
    "parallel.sharding_ranks=none",
    "parallel.expert=1",
    "parallel.expert_tensor=1",
)


def train(prepared: Recipe, name: str, folder: Path, *changes: str, device: str, flags: tuple[str, ...] = ()) -> Job:
    command = ["train", name, *on_corpus(prepared), *ONE_RANK, *changes, "--run", str(folder), "--device", device]
    return start([*command, *flags], folder=folder, cold=True)


def losses(folder: RunFolder) -> list[tuple[float, float]]:
    return [(record["loss"], record["gradient_norm"]) for record in folder.read_metrics()]


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_moves_from_cpu_to_gpu_keeps_its_losses(prepared: Recipe, tmp_path: Path, name: str) -> None:
    """The same weights (a CPU's checkpoint), the same tokens, fp32; few steps, since training amplifies rounding."""
    on_cpu, on_gpu = tmp_path / "cpu", tmp_path / "gpu"
    first = train(prepared, name, on_cpu, device="cpu", flags=("--stop-at", "2"))
    assert first.exit_code() == 87, first.stderr
    shutil.copytree(on_cpu, on_gpu)
    for folder, device in ((on_cpu, "cpu"), (on_gpu, "cuda")):
        job = train(prepared, name, folder, device=device, flags=("--stop-at", str(COMPARED_STEPS)))
        assert job.exit_code() == 87, job.stderr
    ours, expected = losses(RunFolder(on_gpu)), losses(RunFolder(on_cpu))
    assert len(ours) == COMPARED_STEPS
    for our, their in zip(ours, expected, strict=True):
        assert our == pytest.approx(their, rel=1e-5)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    prepared: Recipe, tmp_path: Path, name: str, compute: str
) -> None:
    def run(folder: Path, *flags: str) -> Job:
        return train(prepared, name, folder, f"precision.compute={compute}", device="cuda", flags=flags)

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    jobs = [run(straight), run(stopped, "--stop-at", "10")]
    assert [job.exit_code() for job in jobs] == [0, 87], [job.stderr for job in jobs]
    last = run(stopped)
    assert last.exit_code() == 0, last.stderr
    assert steps_as_bits(RunFolder(stopped)) == steps_as_bits(RunFolder(straight))
    assert checkpoint_as_bits(RunFolder(stopped), STEPS) == checkpoint_as_bits(RunFolder(straight), STEPS)


def test_too_large_a_model_ends_as_out_of_memory(prepared: Recipe, tmp_path: Path) -> None:
    # The first feed-forward matrix asks for 256 GiB.
    job = train(prepared, "tiny", tmp_path / "run", "model.ffn_hidden_size=536870912", device="cuda")
    assert job.exit_code() == 218, job.stderr
    assert "OUT_OF_MEMORY" in job.stderr
    assert "Traceback" not in job.stderr


def test_a_request_to_end_saves_and_the_same_text_comes_from_either_device(prepared: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = train(prepared, "tiny", folder, "train.steps=100000", device="cuda")
    job.wait_for_step(20)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 210, job.stderr
    assert job.terminal.last_committed_step == job.step()
    assert spoken(folder, "cuda") == spoken(folder, "cpu")


def spoken(folder: Path, device: str) -> Any:
    words = ["generate", str(folder), "--prompt", "def ", "--temperature", "0", "--tokens", "40", "--device", device]
    job = start(words, folder=folder, cold=True)
    assert job.exit_code() == 0, job.stderr
    return job.stdout
