"""The library of CUDA C++ kernels, where it was built."""

import functools

import torch

from mai.kernels.cuda.build_library import LIBRARY


@functools.cache
def is_loaded() -> bool:
    """Load it once; False where there is none, and Triton takes its place. Raises OSError for one that is broken."""
    if not LIBRARY.is_file():
        return False
    torch.ops.load_library(str(LIBRARY))
    return True


# What a cluster of blocks holds (cross_entropy.cu).
_MOST_ENTRIES = 2**19


def takes_cross_entropy(dtype: torch.dtype, num_entries: int) -> bool:
    """Whether it computes the loss and gradient of contiguous logits of so many entries (cross_entropy.cu)."""
    return dtype == torch.bfloat16 and num_entries % 8 == 0 and num_entries <= _MOST_ENTRIES and is_loaded()
