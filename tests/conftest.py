"""What every test session needs: no network, and GPU tests only where there is a GPU."""

import importlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.data.prepare import prepare
from mai.engine import device
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.corpus import recipe_on, write_corpus
from tests.durations import Durations
from tests.jobs import TRAINED, Job, ended_jobs, on_corpus, start
from tests.session import IS_WORKER, FromBothEnds, made_once, ranks_first, session_folder, turn

# Set before anything is imported, so that child processes inherit it too.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ.pop("WANDB_API_KEY", None)

KERNELS = Path(__file__).parent / "kernels"

# A shell's nohup ignores SIGHUP, and a script's & ignores SIGINT; every child inherits that, and tests that send them
# would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test module imports Megatron-Core: the test process itself computes on the CPU.
device.prepare("cpu")
if IS_WORKER:
    # The other workers compute too. What a test starts chooses for itself.
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    if not IS_WORKER:
        config.pluginmanager.register(Durations())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FromBothEnds | None:
    return FromBothEnds(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="Also the tests marked `full` (make test-full).")
    parser.addoption("--kernels", action="store_true", help="Also tests/kernels, by Triton (make test-kernels).")
    parser.addoption("--regenerate-golden", action="store_true", help="Write tests/golden anew from what is found.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Not skipped one by one: whoever asks for them must have what they need."""
    return True if collection_path == KERNELS and not config.getoption("--kernels") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ranks_first(item.nodeid))
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="the rest of a large matrix: make test-full runs it"))
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not _has_gpu():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="nvidia-smi lists no GPU"))


# Outermost: to wait for a turn is not a test's own time.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not IS_WORKER:
        return (yield)
    folder = session_folder(item.session.config._tmp_path_factory)  # type: ignore[attr-defined]
    with turn(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.stdout.startswith("GPU ")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe `tiny` on a small corpus that is tokenised already."""

    def make(folder: Path) -> None:
        write_corpus(folder / "documents")
        prepare(recipe_on(folder), workers=1)

    return recipe_on(made_once(session_folder(tmp_path_factory) / "corpus", make))


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

    def make(folder: Path) -> None:
        words = ["train", "tiny", *on_corpus(prepared), *TRAINED, "--run", str(folder / "run"), "--device", "cpu"]
        job = start(words, folder=folder / "run", cold=True)
        try:
            assert job.exit_code() == 0, job.stderr
        finally:
            job.end()

    return RunFolder(made_once(session_folder(tmp_path_factory) / "trained", make) / "run")
