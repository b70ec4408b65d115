"""The library of CUDA C++ kernels, where it was built."""

import functools

import torch

from mai.kernels.cuda.build import LIBRARY


@functools.cache
def is_loaded() -> bool:
    """Load it once; False where there is none, and Triton takes its place. Raises OSError for one that is broken."""
    if not LIBRARY.is_file():
        return False
    torch.ops.load_library(str(LIBRARY))
    return True
