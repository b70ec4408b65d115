"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of GPT-NeoX and Llama.

Shapes: S positions, B sequences, H heads, D head size.
"""

import torch
from torch import Tensor


def tables(length: int, *, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0 .. length - 1, fp32 [S, D]; both halves of D hold the same angles."""
    inverse_frequency = base ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inverse_frequency)
    angles_SD = torch.cat([angles, angles], dim=-1)
    return angles_SD.cos().float(), angles_SD.sin().float()


def reference(x_SBHD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle; computed in fp32, returned in x's dtype."""
    first, second = x_SBHD.float().chunk(2, dim=-1)
    turned_SBHD = torch.cat([-second, first], dim=-1)
    cos_S11D, sin_S11D = cos_SD[:, None, None, :], sin_SD[:, None, None, :]
    return (x_SBHD.float() * cos_S11D + turned_SBHD * sin_S11D).to(x_SBHD.dtype)
