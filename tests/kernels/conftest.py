"""Triton kernels on a CPU: its interpreter, with the bf16 of a GPU, where TRITON_INTERPRET=1 is set.

What the interpreter of Triton 3.7.1 gets wrong (triton/runtime/interpreter.py): it truncates where a GPU rounds to the
nearest bf16, and computes on the bits of bf16 values as if they were whole numbers. Here conversions go through torch,
and arithmetic on bf16 is refused: our kernels convert to fp32 first.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

DTYPES = {
    tl.bfloat16: torch.bfloat16,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def converted(values: Any, source: Any, target: Any, _rounding: Any) -> Any:
    """The bits of `values`, as a GPU converts them."""
    bits = torch.from_numpy(np.ascontiguousarray(values).reshape(-1).view(np.uint8).copy())
    numbers = bits.view(DTYPES[source])
    wanted = DTYPES[target]
    if target in (tl.float8e4nv, tl.float8e5):
        # A GPU's conversion stops at the largest number.
        most = torch.finfo(wanted).max
        numbers = numbers.float()
        numbers = torch.where(numbers.isnan(), numbers, numbers.clamp(-most, most))
    out = numbers.to(wanted).view(torch.uint8).numpy().view(UNSIGNED[wanted.itemsize])
    return out.reshape(np.shape(values))


def refusing_bf16(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *operands: Any) -> Any:
        for operand in operands:
            if isinstance(operand, interpreter.TensorHandle):
                assert operand.dtype.scalar != tl.bfloat16, "arithmetic on bf16: convert to fp32 first"
        return method(self, *operands)

    return call


if triton.knobs.runtime.interpret:
    interpreter._convert_float = converted
    for name in ("binary_op", "unary_op", "create_fma", "create_dot"):
        setattr(interpreter.InterpreterBuilder, name, refusing_bf16(getattr(interpreter.InterpreterBuilder, name)))


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote holds NaN, so that an output which a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)
