"""What a case of benchmarks/kernel_cases.py is made of: the calls that are compared, and where the peers come from."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass
class Case:
    """One operation: what it must move, and the calls that do it."""

    name: str
    least_bytes: int
    calls: dict[str, Call]
    exact: Call | None = None
    """The same in fp64 or fp32, for the error of what the first call returns."""
    flops: int = 0


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def gradient_of(function: Callable[..., Any], inputs: tuple[Tensor, ...], above: Any) -> Call:
    """A call that runs the backward pass, again and again; its first also the forward pass."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outs: list[Any] = []

    def call() -> Any:
        if not outs:
            outs.append(function(*leaves))
        return torch.autograd.grad(outs[0], leaves, above, retain_graph=True)

    return call


def both_ways(
    name: str,
    functions: dict[str, Callable[..., Any]],
    inputs: tuple[Tensor, ...],
    *,
    forward_bytes: int,
    backward_bytes: int,
    exact: Callable[..., Any],
) -> Iterator[Case]:
    """The forward and the backward pass of each peer, against `exact` in fp32."""
    wide = tuple(x.float() for x in inputs)
    yield Case(
        f"{name}, forward",
        forward_bytes,
        {peer: (lambda f=f: f(*inputs)) for peer, f in functions.items()},
        exact=lambda: exact(*wide),
    )
    out = exact(*inputs)
    above = torch.randn_like(out) if isinstance(out, Tensor) else tuple(torch.randn_like(x) for x in out)
    wide_above = above.float() if isinstance(above, Tensor) else tuple(x.float() for x in above)
    calls = {peer: gradient_of(function, inputs, above) for peer, function in functions.items()}
    yield Case(f"{name}, backward", backward_bytes, calls, exact=gradient_of(exact, wide, wide_above))


def megatron(module: str, make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
    return peer_of("megatron", module, make)


def liger(module: str, make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
    return peer_of("liger_kernel", module, make)


def peer_of(package: str, module: str, make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
    """Imported at the call: a peer that is not there is a row that says so."""
    made: list[Callable[..., Any]] = []

    def call(*inputs: Tensor) -> Any:
        if not made:
            made.append(make(importlib.import_module(f"{package}.{module}")))
        return made[0](*inputs)

    return call
