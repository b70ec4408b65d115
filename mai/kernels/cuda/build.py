"""Compiles the CUDA C++ sources beside this file into one library; setup.py calls it."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARY = SOURCES / "library.so"
ARCHITECTURE = "90a"  # Hopper, with the instructions that only it has
# The oldest torch whose stable ABI the sources use: 2.11.0.
TORCH_TARGET_VERSION = "0x020b000000000000"


def find_compiler(cuda_home: str | None) -> Path | None:
    """nvcc of `cuda_home`, of the PATH, or of NVIDIA's packages beside the running Python."""
    home = Path(cuda_home) / "bin/nvcc" if cuda_home else None
    on_path = shutil.which("nvcc")
    packages = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin/nvcc"
    candidates = (home, Path(on_path) if on_path else None, packages)
    return next((path for path in candidates if path is not None and path.is_file()), None)


def build(compiler: Path, *, torch_folder: Path, to: Path = LIBRARY) -> str:
    """Returns what the compiler says of registers and memory; raises CalledProcessError with its words."""
    sources = sorted(SOURCES.glob("*.cu"))
    command: list[str | Path] = [
        *(compiler, "-std=c++17", "-O3", f"-gencode=arch=compute_{ARCHITECTURE},code=sm_{ARCHITECTURE}"),
        *("-shared", "-Xcompiler=-fPIC", "-Xptxas=-v", "-cudart=static", "-DUSE_CUDA"),
        *(f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch_folder / 'include'}"),
        *sources,
        # NVIDIA's packages have it in lib, where their nvcc does not look.
        *("-o", to, f"-L{torch_folder / 'lib'}", f"-L{compiler.parents[1] / 'lib'}"),
        # The symbols are looked up when it is loaded, in the torch that is there then: as-needed would drop its name.
        *("-Xlinker=--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
