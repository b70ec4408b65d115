"""The gradient of a matrix, added to its fp32 sum inside the matrix product.

Shapes: T tokens, I inputs, O outputs of the matrix.
"""

from torch import Tensor

from mai.kernels.operators import operator


def reference(input_TI: Tensor, gradient_TO: Tensor, sum_OI: Tensor) -> None:
    """sum += gradient^T input, the product in the inputs' dtype, the sum in fp32."""
    sum_OI.add_(gradient_TO.t() @ input_TI)


def fused(input_TI: Tensor, gradient_TO: Tensor, sum_OI: Tensor) -> None:
    """`reference` without the product's own tensor, and without its rounding to half precision."""
    _add_weight_gradient(sum_OI, input_TI, gradient_TO)


def _cpu(sum_OI: Tensor, input_TI: Tensor, gradient_TO: Tensor) -> None:
    sum_OI.addmm_(gradient_TO.t().to(sum_OI.dtype), input_TI.to(sum_OI.dtype))


_add_weight_gradient = operator(
    "add_weight_gradient(Tensor(a!) sum, Tensor inputs, Tensor gradient) -> ()",
    cpu=_cpu,
    cuda="weight_gradient.add",
    fake=lambda total, inputs, gradient: None,
    flops=lambda total, inputs, gradient, **_: 2 * total[0] * total[1] * inputs[0],
)
