"""SwiGLU (Shazeer, arXiv 2002.05202): silu(gate) * up; and the clamped version of gpt-oss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(gate_and_up_F2: Tensor) -> Tensor:
    """Input [..., 2 F], the gate first; output [..., F]."""
    gate_F, up_F = gate_and_up_F2.chunk(2, dim=-1)
    return F.silu(gate_F) * up_F


CLAMP_LIMIT = 7.0
CLAMPED_SLOPE = 1.702


def clamped_reference(gate_and_up_F2: Tensor) -> Tensor:
    """gate * sigmoid(1.702 gate) * (up + 1), with gate at most 7 and up between -7 and 7 (openai/gpt-oss,
    gpt_oss/torch/model.py, swiglu). Input [..., 2 F], the gate first; output [..., F]."""
    gate_F, up_F = gate_and_up_F2.chunk(2, dim=-1)
    gate_F, up_F = gate_F.clamp(max=CLAMP_LIMIT), up_F.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)
    return gate_F * torch.sigmoid(CLAMPED_SLOPE * gate_F) * (up_F + 1)
