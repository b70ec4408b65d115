"""SwiGLU (Shazeer, arXiv 2002.05202): silu(gate) * up."""

import torch.nn.functional as F
from torch import Tensor


def reference(gate_and_up_F2: Tensor) -> Tensor:
    """Input [..., 2 F], the gate first; output [..., F]."""
    gate_F, up_F = gate_and_up_F2.chunk(2, dim=-1)
    return F.silu(gate_F) * up_F
