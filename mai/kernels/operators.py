"""Our operations as operators of torch, `torch.ops.mai.*`.

Each has an implementation in plain torch for the CPU, a Triton kernel for CUDA, shapes without computing (a fake), and
where it multiplies matrices its FLOPs. So one code path runs everywhere, and profiles, tracing and FLOP counters see
our operations by name. Registered through torch.library.Library: the host's time of a call is a quarter of what
torch.library.custom_op needs.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_LIBRARY = torch.library.Library("mai", "DEF")

Implementation = Callable[..., Any]


def operator(
    schema: str, *, cpu: Implementation, cuda: str, fake: Implementation, flops: Implementation | None = None
) -> Implementation:
    """Register `name(arguments) -> results`; returns what calls it.

    Args:
        cuda: `module.function` in mai/kernels/gpu, imported at the first call: not every machine has Triton.
        flops: shapes -> operations; None for what only moves memory."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, _imported_late(cuda), "CUDA")
    torch.library.register_fake(f"mai::{name}", fake, lib=_LIBRARY)
    packet = getattr(torch.ops.mai, name)
    if flops is not None:
        register_flop_formula(packet)(flops)
    return packet.default  # type: ignore[no-any-return]


def wide(x: Tensor) -> Tensor:
    """In fp32, or more where it has more: what an implementation in plain torch computes in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _imported_late(path: str) -> Implementation:
    module, _, function = path.partition(".")
    found: list[Implementation] = []

    def call(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(importlib.import_module(f"mai.kernels.gpu.{module}"), function))
        return found[0](*arguments)

    return call
