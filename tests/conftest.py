"""What every test session needs: no network, and GPU tests only where there is a GPU."""

import os
import shutil
import subprocess

import pytest

from mai.recipe import Recipe
from tests.corpus import prepared_recipe

# Set before anything is imported, so that child processes inherit it too.
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ.pop("WANDB_API_KEY", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
