"""The start-up self-test: fused operations pass, and one wrong element of an output or a gradient does not."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.engine import operations
from mai.engine.operations import FUSED, Operations
from mai.engine.self_test import TRIALS, disagreements
from mai.kernels import adamw, swiglu
from recipes.debug.tiny import tiny
from tests.corpus import changed

CPU = torch.device("cpu")


def test_every_operation_has_a_trial() -> None:
    assert TRIALS.keys() == {field.name for field in fields(Operations)}


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_what_mai_ships_passes(compute: str, kernels: str) -> None:
    recipe = replace(changed(tiny(), precision={"compute": compute}), kernels=kernels)
    assert disagreements(recipe, CPU) == []


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return one_element_wrong(gradient)


def one_element_wrong(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[-1] += 0.1
    return x


def wrong_output(x: Tensor) -> Tensor:
    return one_element_wrong(swiglu.fused(x))


def wrong_gradient(x: Tensor) -> Tensor:
    return swiglu.fused(_WrongGradient.apply(x))  # type: ignore[no-any-return,no-untyped-call]


def not_a_number(x: Tensor) -> Tensor:
    return swiglu.fused(x) * float("nan")


def too_long(x: Tensor) -> Tensor:
    return swiglu.fused(torch.cat([x, x]))


def no_launch(_: Tensor) -> Tensor:
    raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (wrong_output, "swiglu: off by "),
        (wrong_gradient, "swiglu: off by "),
        (not_a_number, "swiglu: off by nan"),
        (too_long, "swiglu: AssertionError: gives (6, 72) and not (3, 72)"),
        (no_launch, "swiglu: RuntimeError: CUDA error: unspecified launch failure"),
    ],
)
def test_a_wrong_operation_is_named_with_its_error(
    kernel: Callable[[Tensor], Tensor], said: str, compute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "FUSED", replace(FUSED, swiglu=kernel))
    (found,) = disagreements(changed(tiny(), precision={"compute": compute}), CPU)
    assert found.startswith(said)
    assert "\n" not in found


def test_an_update_that_forgets_to_write_the_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(
        weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor, update: adamw.Update
    ) -> None:
        adamw.fused(weight, exp_avg, exp_avg_sq, gradient, None, update)

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, adamw=forgetful))
    (found,) = disagreements(tiny(), CPU)
    assert found.startswith("adamw: off by ")


def test_nobody_else_s_random_numbers_are_drawn() -> None:
    before = torch.get_rng_state()
    disagreements(tiny(), CPU)
    assert torch.equal(torch.get_rng_state(), before)
