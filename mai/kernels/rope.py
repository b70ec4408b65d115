"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of GPT-NeoX and Llama.

Shapes: S positions, B sequences, H heads, D head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def tables(length: int, frequencies: Sequence[float], *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0 .. length - 1 times `scale`, fp32 [S, D]; both halves of D hold the same angles.

    `frequencies`: radians that each pair turns by at a step, D / 2 of them."""
    angles = torch.outer(torch.arange(length, dtype=torch.float64), torch.tensor(frequencies, dtype=torch.float64))
    angles_SD = torch.cat([angles, angles], dim=-1)
    return (scale * angles_SD.cos()).float(), (scale * angles_SD.sin()).float()


def reference(x_SBHD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle; computed in fp32, returned in x's dtype."""
    first, second = x_SBHD.float().chunk(2, dim=-1)
    turned_SBHD = torch.cat([-second, first], dim=-1)
    cos_S11D, sin_S11D = cos_SD[:, None, None, :], sin_SD[:, None, None, :]
    return (x_SBHD.float() * cos_S11D + turned_SBHD * sin_S11D).to(x_SBHD.dtype)
