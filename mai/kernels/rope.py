"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of GPT-NeoX and Llama.

Shapes: S positions, B sequences, H heads, D head size. Tables are [S, D], or [S, B, D] where each sequence has its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mai.kernels.operators import operator, wide


def tables(length: int, frequencies: Sequence[float], *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0 .. length - 1 times `scale`, fp32 [S, D]; both halves of D hold the same angles.

    `frequencies`: radians that each pair turns by at a step, D / 2 of them; a pair with 0 stays as it is."""
    scales = torch.tensor([scale if frequency else 1.0 for frequency in frequencies], dtype=torch.float64).repeat(2)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), torch.tensor(frequencies, dtype=torch.float64))
    angles_SD = torch.cat([angles, angles], dim=-1)
    return (scales * angles_SD.cos()).float(), (scales * angles_SD.sin()).float()


def reference(x_SBHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle; computed in fp32 or wider, returned in x's dtype."""
    x = wide(x_SBHD)
    first, second = x.chunk(2, dim=-1)
    turned_SBHD = torch.cat([-second, first], dim=-1)
    cos, sin = (_for_each_head(table) for table in (cos, sin))
    return (x * cos + turned_SBHD * sin).to(x_SBHD.dtype)


def _for_each_head(table: Tensor) -> Tensor:
    """[S, 1, 1, D] or [S, B, 1, D]."""
    return (table if table.dim() == 3 else table[:, None]).unsqueeze(-2)


def fused(x_SBHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`reference` in one reading each way, of any strides but for D's; the tables get no gradient."""
    return _Rope.apply(x_SBHD, cos, sin)  # type: ignore[no-any-return,no-untyped-call]


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SBHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_SBHD, cos, sin, 1)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_SBHD: Tensor) -> tuple[Tensor, None, None]:
        # The other way round: a turn's transpose is the turn by the negative angle.
        return _turn(gradient_SBHD, *ctx.saved_tensors, -1), None, None


def _cpu(x_SBHD: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    return reference(x_SBHD, cos, sin * direction)


_turn = operator(
    "rope(Tensor x, Tensor cos, Tensor sin, int direction) -> Tensor",
    cpu=_cpu,
    cuda="rope.turn",
    fake=lambda x, cos, sin, direction: x.new_empty(x.shape),
)
