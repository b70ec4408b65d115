"""The CUDA C++ library is built, spills nothing and loads, on a machine without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mai.kernels.cuda.build_library import build

# CUDA's compiler as packages, which make test-kernels puts on the path of modules.
COMPILERS = [Path(entry) for entry in sys.path if entry.endswith("compilers")]
SCRIPT = """
import sys, torch
torch.ops.load_library(sys.argv[1])
print(torch._C._dispatch_dump("mai_cuda::cross_entropy"))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    library = tmp_path_factory.mktemp("built") / "library.so"
    (compilers,) = COMPILERS
    told = build(compilers / "nvidia/cu13/bin/nvcc", torch_folder=Path(torch.__file__).parent, to=library)
    return library, told


def test_nothing_is_spilled_and_a_block_of_512_threads_fits_a_multiprocessor(built: tuple[Path, str]) -> None:
    _, told = built
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill", told)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", told)]
    assert len(spills) == 2 * len(registers) > 0
    assert not any(spills)
    # 65,536 registers a multiprocessor (CUDA C++ programming guide, compute capability 9.0).
    assert max(registers) * 512 <= 65536


def test_it_loads_without_a_gpu_and_holds_the_cuda_implementation(built: tuple[Path, str]) -> None:
    library, _ = built
    # In a process of its own: an operator cannot be registered twice.
    told = subprocess.run([sys.executable, "-c", SCRIPT, library], capture_output=True, text=True, check=True).stdout
    assert "CUDA: registered at" in told
