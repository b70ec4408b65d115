"""RMSNorm (Zhang and Sennrich, arXiv 1910.07467): x / sqrt(mean(x^2) + epsilon) * weight, over the last dim; alone, or
of the sum of a layer's output and the residual stream.

Shapes: N rows, H features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mai.kernels.operators import operator, wide


def reference(x_NH: Tensor, weight_H: Tensor, *, epsilon: float) -> Tensor:
    """Any leading shape, any float dtype; statistics in fp32 as torch does."""
    return F.rms_norm(x_NH, weight_H.shape, weight_H, epsilon)


def fused(x_NH: Tensor, weight_H: Tensor, *, epsilon: float) -> Tensor:
    """`reference`; the backward pass gives both gradients from one reading."""
    return _RMSNorm.apply(x_NH, weight_H, epsilon)  # type: ignore[no-any-return,no-untyped-call]


def reference_of_sum(x_NH: Tensor, residual_NH: Tensor, weight_H: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + residual, normalised; and the sum itself, the residual stream that goes on."""
    total_NH = x_NH + residual_NH
    return reference(total_NH, weight_H, epsilon=epsilon), total_NH


def fused_of_sum(x_NH: Tensor, residual_NH: Tensor, weight_H: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """`reference_of_sum` in one reading each way."""
    return _RMSNormOfSum.apply(x_NH, residual_NH, weight_H, epsilon)  # type: ignore[no-any-return,no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        out_NH, scale_N = _forward(x_NH, weight_H, epsilon)
        ctx.save_for_backward(x_NH, weight_H, scale_N)
        return out_NH  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_NH: Tensor) -> tuple[Tensor, Tensor, None]:
        of_x, of_weight = _backward(*ctx.saved_tensors, gradient_NH, None)
        return of_x, of_weight, None


class _RMSNormOfSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, residual_NH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        out_NH, total_NH, scale_N = _forward_of_sum(x_NH, residual_NH, weight_H, epsilon)
        ctx.save_for_backward(total_NH, weight_H, scale_N)
        return out_NH, total_NH

    @staticmethod
    def backward(ctx: Any, gradient_NH: Tensor, of_total_NH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        of_sum, of_weight = _backward(*ctx.saved_tensors, gradient_NH, of_total_NH)
        return of_sum, of_sum, of_weight, None


def cpu_forward(x_NH: Tensor, weight_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The operator in plain torch: the norm, and each row's 1 / sqrt(mean(x^2) + epsilon)."""
    x = wide(x_NH)
    scale_N = torch.rsqrt(x.square().mean(dim=-1) + epsilon)
    return (x * scale_N[..., None] * weight_H).to(x_NH.dtype), scale_N


def _cpu_forward_of_sum(
    x_NH: Tensor, residual_NH: Tensor, weight_H: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    total_NH = x_NH + residual_NH
    out_NH, scale_N = cpu_forward(total_NH, weight_H, epsilon)
    return out_NH, total_NH, scale_N


def cpu_backward(
    x_NH: Tensor, weight_H: Tensor, scale_N: Tensor, gradient_NH: Tensor, of_total_NH: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of x, to which that of the sum is added, and of the weight."""
    normal_NH, gradient = wide(x_NH) * scale_N[..., None], wide(gradient_NH)
    of_normal_NH = gradient * weight_H
    of_x = scale_N[..., None] * (of_normal_NH - normal_NH * (of_normal_NH * normal_NH).mean(dim=-1, keepdim=True))
    if of_total_NH is not None:
        of_x += of_total_NH
    of_weight_H = (gradient * normal_NH).flatten(end_dim=-2).sum(dim=0)
    return of_x.to(x_NH.dtype), of_weight_H.to(weight_H.dtype)


def _rows_of_fp32(x_NH: Tensor) -> Tensor:
    return x_NH.new_empty(x_NH.shape[:-1], dtype=torch.promote_types(x_NH.dtype, torch.float32))


_forward = operator(
    "rms_norm(Tensor x, Tensor weight, float epsilon) -> (Tensor, Tensor)",
    cpu=cpu_forward,
    cuda="rms_norm.forward",
    fake=lambda x, weight, epsilon: (x.new_empty(x.shape), _rows_of_fp32(x)),
)
_forward_of_sum = operator(
    "rms_norm_of_sum(Tensor x, Tensor residual, Tensor weight, float epsilon) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_forward_of_sum,
    cuda="rms_norm.forward_of_sum",
    fake=lambda x, residual, weight, epsilon: (x.new_empty(x.shape), x.new_empty(x.shape), _rows_of_fp32(x)),
)
_backward = operator(
    "rms_norm_backward(Tensor x, Tensor weight, Tensor scale, Tensor gradient, Tensor? of_total) -> (Tensor, Tensor)",
    cpu=cpu_backward,
    cuda="rms_norm.backward",
    fake=lambda x, weight, scale, gradient, of_total: (x.new_empty(x.shape), torch.empty_like(weight)),
)
