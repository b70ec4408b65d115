"""`mai/kernels/adamw.py` in Triton."""

import math

import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.adamw_update import Update
from mai.kernels.gpu.launch import cover

BLOCK, NUM_WARPS = 1024, 4


@triton.jit
def adamw_kernel(
    weight,
    exp_avg,
    exp_avg_sq,
    gradient,
    copy,
    length,
    decay,
    gradient_factor,
    beta1,
    beta2,
    step_size,
    root_correction,
    epsilon,
    HAS_COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < length
    clipped = tl.load(gradient + place, mask=inside).to(tl.float32) * gradient_factor
    first = tl.load(exp_avg + place, mask=inside)
    first += (1 - beta1) * (clipped - first)
    second = beta2 * tl.load(exp_avg_sq + place, mask=inside) + (1 - beta2) * clipped * clipped
    value = tl.load(weight + place, mask=inside) * decay
    value -= step_size * first / (tl.sqrt_rn(second) / root_correction + epsilon)
    tl.store(exp_avg + place, first, mask=inside)
    tl.store(exp_avg_sq + place, second, mask=inside)
    tl.store(weight + place, value, mask=inside)
    if HAS_COPY:
        tl.store(copy + place, value.to(copy.dtype.element_ty), mask=inside)


def adamw(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, *numbers: float
) -> None:
    update = Update.of(*numbers)
    if not weight.numel():
        return
    adamw_kernel[(cover(weight.numel(), BLOCK),)](
        weight,
        exp_avg,
        exp_avg_sq,
        gradient,
        copy,
        weight.numel(),
        1 - update.learning_rate * update.weight_decay,
        update.gradient_factor,
        update.beta1,
        update.beta2,
        # The moments begin at zero: their means are short by these.
        update.learning_rate / (1 - update.beta1**update.number),
        math.sqrt(1 - update.beta2**update.number),
        update.epsilon,
        HAS_COPY=copy is not None,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
