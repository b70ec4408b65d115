"""What the launchers share."""

import functools

import torch
import triton
from torch import Tensor


def rows(x: Tensor) -> tuple[Tensor, int, int]:
    """A tensor as contiguous rows of its last dim: [N, M], N, M."""
    flat = x.reshape(-1, x.size(-1))
    flat = flat if flat.is_contiguous() else flat.contiguous()
    return flat, flat.size(0), flat.size(1)


def with_whole_rows(x: Tensor) -> Tensor:
    """The tensor, or a copy whose last dim is contiguous; all other strides are free."""
    return x if x.stride(-1) == 1 else x.contiguous()


def table_strides(table: Tensor | None) -> tuple[int, int]:
    """Strides of a rotary table's positions and sequences: [S, D] is the same for every sequence, [S, B, D] is not."""
    if table is None:
        return 0, 0
    return table.stride(0), table.stride(1) if table.dim() == 3 else 0


def cover(length: int, block: int) -> int:
    """How many blocks cover the length."""
    return int(triton.cdiv(length, block))


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """How many the card has; the interpreter's CPU counts as four."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
