"""SwiGLU (Shazeer, arXiv 2002.05202): silu(gate) * up; and the clamped version of gpt-oss.

Shapes: T tokens, F features of the feed-forward layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mai.kernels.operators import operator


def reference(gate_and_up_T2F: Tensor) -> Tensor:
    """Input [..., 2 F], the gate first; output [..., F]."""
    gate_TF, up_TF = gate_and_up_T2F.chunk(2, dim=-1)
    return F.silu(gate_TF) * up_TF


def fused(gate_and_up_T2F: Tensor) -> Tensor:
    """`reference` with a backward pass that reads and writes everything once; rounded once."""
    return _SwiGLU.apply(gate_and_up_T2F)  # type: ignore[no-any-return,no-untyped-call]


def weighted_reference(gate_and_up_T2F: Tensor, weight_T: Tensor) -> Tensor:
    """The same of a routed token, times the weight (fp32) that its router gave; computed in fp32, as Megatron's
    weighted_bias_swiglu_impl does (core/fusions/fused_bias_swiglu.py), returned in the input's dtype."""
    gate_TF, up_TF = gate_and_up_T2F.float().chunk(2, dim=-1)
    return (F.silu(gate_TF) * up_TF * weight_T[..., None]).to(gate_and_up_T2F.dtype)


def weighted_fused(gate_and_up_T2F: Tensor, weight_T: Tensor) -> Tensor:
    """`weighted_reference`, in one reading each way."""
    return _WeightedSwiGLU.apply(gate_and_up_T2F, weight_T)  # type: ignore[no-any-return,no-untyped-call]


CLAMP_LIMIT = 7.0
CLAMPED_SLOPE = 1.702


def clamped_reference(gate_and_up_F2: Tensor) -> Tensor:
    """gate * sigmoid(1.702 gate) * (up + 1), with gate at most 7 and up between -7 and 7 (openai/gpt-oss,
    gpt_oss/torch/model.py, swiglu). Input [..., 2 F], the gate first; output [..., F]."""
    gate_F, up_F = gate_and_up_F2.chunk(2, dim=-1)
    gate_F, up_F = gate_F.clamp(max=CLAMP_LIMIT), up_F.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)
    return gate_F * torch.sigmoid(CLAMPED_SLOPE * gate_F) * (up_F + 1)


def gelu_reference(gate_and_up_F2: Tensor) -> Tensor:
    """gelu(gate) * up, in the tanh form. Input [..., 2 F], the gate first; output [..., F]."""
    gate_F, up_F = gate_and_up_F2.chunk(2, dim=-1)
    return F.gelu(gate_F, approximate="tanh") * up_F


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up_T2F: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up_T2F)
        return _forward(gate_and_up_T2F)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_TF: Tensor) -> Tensor:
        return _backward(ctx.saved_tensors[0], gradient_TF)  # type: ignore[no-any-return]


class _WeightedSwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up_T2F: Tensor, weight_T: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up_T2F, weight_T)
        return _weighted_forward(gate_and_up_T2F, weight_T)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_TF: Tensor) -> tuple[Tensor, Tensor]:
        return _weighted_backward(*ctx.saved_tensors, gradient_TF)  # type: ignore[no-any-return]


def _cpu_backward(gate_and_up_T2F: Tensor, gradient_TF: Tensor) -> Tensor:
    gate_TF, up_TF = gate_and_up_T2F.chunk(2, dim=-1)
    of_both = torch.empty_like(gate_and_up_T2F)
    of_gate, of_up = of_both.chunk(2, dim=-1)
    torch.ops.aten.silu_backward.grad_input(gradient_TF * up_TF, gate_TF, grad_input=of_gate)
    torch.mul(gradient_TF, F.silu(gate_TF), out=of_up)
    return of_both


def _cpu_weighted_backward(gate_and_up_T2F: Tensor, weight_T: Tensor, gradient_TF: Tensor) -> tuple[Tensor, Tensor]:
    gate_and_up, gradient = gate_and_up_T2F.float(), gradient_TF.float()
    gate_TF, up_TF = gate_and_up.chunk(2, dim=-1)
    of_weight_T = (gradient * F.silu(gate_TF) * up_TF).sum(dim=-1)
    return _cpu_backward(gate_and_up, gradient * weight_T[..., None]).to(gate_and_up_T2F.dtype), of_weight_T


def _half(gate_and_up_T2F: Tensor, *_: Tensor) -> Tensor:
    return gate_and_up_T2F.new_empty((*gate_and_up_T2F.shape[:-1], gate_and_up_T2F.size(-1) // 2))


def _like_input(gate_and_up_T2F: Tensor, *_: Tensor) -> Tensor:
    return gate_and_up_T2F.new_empty(gate_and_up_T2F.shape)


_forward = operator("swiglu(Tensor gate_and_up) -> Tensor", cpu=reference, cuda="swiglu.forward", fake=_half)
_backward = operator(
    "swiglu_backward(Tensor gate_and_up, Tensor gradient) -> Tensor",
    cpu=_cpu_backward,
    cuda="swiglu.backward",
    fake=_like_input,
)
_weighted_forward = operator(
    "weighted_swiglu(Tensor gate_and_up, Tensor weight) -> Tensor",
    cpu=weighted_reference,
    cuda="swiglu.weighted_forward",
    fake=_half,
)
_weighted_backward = operator(
    "weighted_swiglu_backward(Tensor gate_and_up, Tensor weight, Tensor gradient) -> (Tensor, Tensor)",
    cpu=_cpu_weighted_backward,
    cuda="swiglu.weighted_backward",
    fake=lambda gate_and_up, weight, gradient: (_like_input(gate_and_up), torch.empty_like(weight)),
)
