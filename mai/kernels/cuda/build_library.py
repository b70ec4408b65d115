"""Compiles the CUDA C++ sources beside this file into one library; `make setup` calls it where there is a GPU.

python -m mai.kernels.cuda.build_library    needs nvcc 13, of /usr/local/cuda, of the PATH or of NVIDIA's packages
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent
_DIGEST = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(SOURCES.glob("*.cu")))).hexdigest()
# Named after the sources: what was built from others is not taken for it.
LIBRARY = SOURCES / f"library-{_DIGEST[:8]}.so"
ARCHITECTURE = "90a"  # Hopper, with the instructions that only it has
# The oldest torch whose stable ABI the sources use: 2.11.0.
TORCH_TARGET_VERSION = "0x020b000000000000"


def find_compiler() -> Path | None:
    """nvcc of CUDA's usual place, of the PATH, or of NVIDIA's packages beside the running Python."""
    on_path = shutil.which("nvcc")
    packages = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin/nvcc"
    candidates = (Path("/usr/local/cuda/bin/nvcc"), Path(on_path) if on_path else None, packages)
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


def main() -> None:
    """Build it into the package; an error is one line and exit code 1."""
    compiler = find_compiler()
    if compiler is None:
        sys.exit(
            "no nvcc; install CUDA 13, or: pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-cccl"
        )
    torch = importlib.util.find_spec("torch")
    assert torch is not None, "mai is installed with it"
    try:
        build(compiler, torch_folder=Path(str(torch.origin)).parent)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{compiler} failed: {error.stderr}")


if __name__ == "__main__":
    main()
