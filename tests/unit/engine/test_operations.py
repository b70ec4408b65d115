"""What a recipe's `kernels` stands for."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from mai.engine.operations import FUSED, REFERENCE, choose, described
from mai.errors import EnvironmentMismatchError
from mai.kernels import adamw
from recipes.debug.tiny import tiny


def test_auto_is_fused_and_reference_is_plain() -> None:
    assert choose(tiny()) == FUSED
    assert choose(replace(tiny(), kernels="reference")) == REFERENCE


def test_the_record_says_what_each_operation_was() -> None:
    assert set(described(replace(tiny(), kernels="reference"), "cpu").values()) == {"torch"}
    assert set(described(tiny(), "cpu").values()) == {"fused, in plain torch on a CPU"}
    on_gpu = described(tiny(), "cuda")
    assert (on_gpu["swiglu"], on_gpu["weight_gradient"]) == ("fused, Triton", "fused, cuBLAS")


def test_full_sharding_has_no_sum_that_a_weight_gradient_could_be_added_to() -> None:
    recipe = tiny()
    fully_sharded = replace(recipe, parallel=replace(recipe.parallel, sharding="full"))
    assert described(fully_sharded, "cuda")["weight_gradient"] == "torch"
    assert described(fully_sharded, "cuda")["adamw"] == "fused, Triton"


def test_apex_that_is_not_there_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amp_C", None)
    with pytest.raises(EnvironmentMismatchError, match="kernels=apex: NVIDIA apex is not installed.*kernels=auto"):
        choose(replace(tiny(), kernels="apex"))


def test_apex_takes_its_two_operations_and_gets_the_arguments_of_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """apex cannot be built without CUDA: stand-ins with its signature (csrc/multi_tensor_adam.cu) note what they get."""
    calls: list[tuple[Any, ...]] = []

    def wgrad_gemm_accum_fp32(*_: Any) -> None:
        pass

    wgrad_gemm_accum_fp32.__module__ = "fused_weight_gradient_mlp_cuda"
    stand_ins = {
        "fused_weight_gradient_mlp_cuda": SimpleNamespace(wgrad_gemm_accum_fp32=wgrad_gemm_accum_fp32),
        "amp_C": SimpleNamespace(multi_tensor_adam="the kernel"),
        "apex": ModuleType("apex"),
        "apex.multi_tensor_apply": SimpleNamespace(multi_tensor_applier=lambda *given: calls.append(given)),
    }
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    recipe = replace(tiny(), kernels="apex")
    told = described(recipe, "cuda")
    assert {name for name, what in told.items() if what == "apex"} == {"weight_gradient", "adamw"}

    weight, exp_avg, exp_avg_sq, gradient = (torch.full((3,), float(value)) for value in range(4))
    update = adamw.Update(
        learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.2, gradient_factor=0.5, number=7
    )
    kernel = choose(recipe).adamw
    assert kernel is not None
    kernel(weight, exp_avg, exp_avg_sq, gradient, None, update)
    ((called, noop, lists, *numbers),) = calls
    assert called == "the kernel"
    assert not noop.any()
    assert [tensors[0] is each for tensors, each in zip(lists, (gradient, weight, exp_avg, exp_avg_sq), strict=True)]
    assert gradient.tolist() == [1.5, 1.5, 1.5], "clipped"
    assert numbers == [0.1, 0.9, 0.95, 1e-8, 7, 1, 1, 0.2]
