"""What every test session needs: no network, and GPU tests only where there is a GPU."""

import importlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mai.engine import device
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.corpus import prepared_recipe
from tests.jobs import TRAINED, Job, ended_jobs, on_corpus, start

# Set before anything is imported, so that child processes inherit it too.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ.pop("WANDB_API_KEY", None)

KERNELS = Path(__file__).parent / "kernels"

# A shell's nohup ignores SIGHUP, and every child inherits that: tests that send it would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before any test module imports Megatron-Core: the test process itself computes on the CPU.
device.prepare("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="Also the tests marked `full` (make test-full).")
    parser.addoption("--kernels", action="store_true", help="Also tests/kernels, by Triton (make test-kernels).")
    parser.addoption("--regenerate-golden", action="store_true", help="Write tests/golden anew from what is found.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not skipped one by one: whoever asks for them must have what they need."""
    return True if collection_path == KERNELS and not config.getoption("--kernels") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="the rest of a large matrix: make test-full runs it"))
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not _has_gpu():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="nvidia-smi lists no GPU"))


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.stdout.startswith("GPU ")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe `tiny` on a small corpus that is tokenised already."""
    return prepared_recipe(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def cpu_engine() -> None:
    """Megatron-Core in the test process itself, on the CPU; some four seconds, once."""
    importlib.import_module("tests.warm")


@pytest.fixture
def launch() -> Iterator[Callable[..., Job]]:
    """tests.jobs.start, whose jobs end with the test."""
    with ended_jobs() as start_one:
        yield start_one


@pytest.fixture(scope="session")
def trained(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """`tiny`, trained for its 20 steps from the command line on 8 ranks (TP2 PP2 DP2, sequence parallel), undisturbed,
    with checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    job = start(
        ["train", "tiny", *on_corpus(prepared), *TRAINED, "--run", str(folder), "--device", "cpu"],
        folder=folder,
        cold=True,
    )
    try:
        assert job.exit_code() == 0, job.stderr
    finally:
        job.end()
    return RunFolder(folder)
