"""The matrices of experts, each for the tokens that its router sent it: all of them in one grouped product.

Shapes: N tokens, those of the first expert first; E experts, I inputs, O outputs of an expert's matrix.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mai.kernels import weight_gradient
from mai.kernels.operators import operator

AddGradient = Callable[[Tensor, Tensor, Tensor], None]


def reference(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """[N, O]: x W^T of each token's expert, one expert after the other. `counts_E`: tokens of each, on the host."""
    return one_by_one(x_NI, weight_EOI.mT, counts_E)


def fused(
    x_NI: Tensor,
    weight_EOI: Tensor,
    counts_E: Tensor,
    *,
    sum_EOI: Tensor | None = None,
    add_gradient: AddGradient = weight_gradient.fused,
) -> Tensor:
    """`reference` in one launch, and one more for the input's gradient.

    Args:
        sum_EOI: where the weight's gradient is added, expert by expert, instead of being returned: what autograd gets
            for it then means nothing. None for the gradient itself, in one launch as well.
        add_gradient: adds one expert's, as `weight_gradient.fused` does."""
    # Not waited for: torch would wait for everything that the card still has to do.
    ends_E = counts_E.cumsum(0, dtype=torch.int32).to(x_NI.device, non_blocking=True)
    return _GroupedLinear.apply(x_NI, weight_EOI, counts_E, ends_E, sum_EOI, add_gradient)  # type: ignore[no-any-return,no-untyped-call]


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight_EOI: Tensor,
        counts_E: Tensor,
        ends_E: Tensor,
        sum_EOI: Tensor | None,
        add_gradient: AddGradient,
    ) -> Tensor:
        ctx.save_for_backward(x_NI, weight_EOI, counts_E, ends_E)
        # Not saved as the others are: autograd would complain that the sum changed.
        ctx.sum_EOI, ctx.add_gradient = sum_EOI, add_gradient
        return _product(x_NI, weight_EOI.mT, ends_E, counts_E)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        x_NI, weight_EOI, counts_E, ends_E = ctx.saved_tensors
        of_x = _product(gradient_NO, weight_EOI, ends_E, counts_E)
        if ctx.sum_EOI is None:
            return of_x, _weight_gradient(x_NI, gradient_NO, ends_E, counts_E), None, None, None, None
        counts = counts_E.tolist()
        for x, gradient, total in zip(x_NI.split(counts), gradient_NO.split(counts), ctx.sum_EOI, strict=True):
            if x.size(0):
                ctx.add_gradient(x, gradient, total)
        return of_x, torch.empty_like(weight_EOI), None, None, None, None


def one_by_one(x_NI: Tensor, weight_EIO: Tensor, counts_E: Tensor) -> Tensor:
    """[N, O]: each token times its expert's matrix."""
    pairs = zip(x_NI.split(counts_E.tolist()), weight_EIO, strict=True)
    return torch.cat([x @ weight_IO for x, weight_IO in pairs])


def weight_gradients_one_by_one(x_NI: Tensor, gradient_NO: Tensor, counts_E: Tensor) -> Tensor:
    """[E, O, I]; zeros for an expert without tokens."""
    counts = counts_E.tolist()
    pairs = zip(x_NI.split(counts), gradient_NO.split(counts), strict=True)
    return torch.stack([gradient.t() @ x for x, gradient in pairs])


def takes_one_launch(dtype: torch.dtype, *widths: int, device: torch.device) -> bool:
    """Whether torch's grouped product takes them in one launch: bf16 only, rows that begin at multiples of 16 bytes.

    On other cards than those of compute capability 9 and 10 torch 2.11 copies the ends to the host and loops
    (aten/src/ATen/native/cuda/GroupedBlas.cpp, _grouped_mm_cuda: `use_fast_path`). The CPU of tests, where it loops
    too, counts as one that has it."""
    has_it = device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
    return has_it and dtype == torch.bfloat16 and all(width % 8 == 0 for width in widths)


# Where the tokens of each expert end, for the library's kernels; how many each has is on the host, for loops.
_product = operator(
    "grouped_product(Tensor x, Tensor weight, Tensor ends, Tensor counts) -> Tensor",
    cpu=lambda x, weight, ends, counts: one_by_one(x, weight, counts),
    cuda="grouped_linear.product",
    fake=lambda x, weight, ends, counts: x.new_empty((x.size(0), weight.size(2))),
    flops=lambda x, weight, ends, counts, **_: 2 * x[0] * x[1] * weight[2],
)
_weight_gradient = operator(
    "grouped_weight_gradient(Tensor x, Tensor gradient, Tensor ends, Tensor counts) -> Tensor",
    cpu=lambda x, gradient, ends, counts: weight_gradients_one_by_one(x, gradient, counts),
    cuda="grouped_linear.weight_gradient",
    fake=lambda x, gradient, ends, counts: x.new_empty((counts.size(0), gradient.size(1), x.size(1))),
    flops=lambda x, gradient, ends, counts, **_: 2 * x[0] * x[1] * gradient[1],
)
