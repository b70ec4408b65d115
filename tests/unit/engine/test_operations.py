"""What a recipe's `kernels` stands for."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.engine.operations import FUSED, REFERENCE, choose, described
from mai.errors import EnvironmentMismatchError
from mai.kernels.adamw_update import Update
from mai.kernels.cuda import library
from recipes.debug.every_axis import experts_every_axis
from recipes.debug.tiny import tiny
from tests.corpus import changed


def test_auto_is_fused_and_reference_is_plain() -> None:
    assert choose(tiny()) == FUSED
    assert choose(replace(tiny(), kernels="reference")) == REFERENCE


def test_the_record_says_what_each_operation_was() -> None:
    assert set(described(replace(tiny(), kernels="reference"), "cpu").values()) == {"torch"}
    assert set(described(tiny(), "cpu").values()) == {"fused, in plain torch on a CPU"}
    on_gpu = described(tiny(), "cuda")
    assert (on_gpu["swiglu"], on_gpu["weight_gradient"]) == ("fused, Triton", "fused, cuBLAS")
    assert on_gpu["cross_entropy"] == "fused, Triton"


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, True),
        ({"precision": {"compute": "fp32"}}, False),
        ({"model": {"vocab_size": 1003}}, False),
        ({"model": {"vocab_size": 2**19 + 8}}, False),
        ({"parallel": {"tensor": 2}}, False),
        ({"parallel": {"sharding": "full"}}, True),
        ({"parallel": {"sharding": "full"}, "precision": {"compute": "fp32"}}, False),
    ],
)
def test_the_record_says_cuda_only_of_what_its_library_takes(
    changes: dict[str, dict[str, Any]], *, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where it was built, which needs a GPU.
    monkeypatch.setattr(library, "is_loaded", lambda: True)
    recipe = changed(tiny(), **{"precision": {"compute": "bf16"}, **changes})
    assert described(recipe, "cuda")["cross_entropy"] == ("fused, CUDA C++" if is_taken else "fused, Triton")
    assert described(recipe, "cpu")["cross_entropy"] == "fused, in plain torch on a CPU"


@pytest.mark.parametrize(
    ("compute", "features", "capability", "told"),
    [
        ("bf16", 64, 9, "fused, torch's grouped product"),
        ("fp32", 64, 9, "fused, one expert after the other"),
        # 12 on each of two expert-tensor ranks.
        ("bf16", 24, 9, "fused, one expert after the other"),
        ("bf16", 64, 8, "fused, one expert after the other"),
    ],
)
def test_the_record_says_of_experts_what_multiplies_them(
    compute: str, features: int, capability: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    recipe = experts_every_axis()
    assert recipe.model.experts is not None
    experts = replace(recipe.model.experts, ffn_hidden_size=features)
    recipe = changed(recipe, model={"feed_forward": experts}, precision={"compute": compute})
    assert described(recipe, "cuda")["grouped_linear"] == told


def test_full_sharding_has_no_sum_that_a_weight_gradient_could_be_added_to() -> None:
    recipe = tiny()
    fully_sharded = replace(recipe, parallel=replace(recipe.parallel, sharding="full"))
    assert described(fully_sharded, "cuda")["weight_gradient"] == "torch"
    assert described(fully_sharded, "cuda")["adamw"] == "fused, Triton"


def test_logits_stay_whole_where_nobody_knows_a_loss_s_gradient_beforehand_or_has_a_sum_for_the_weight_s() -> None:
    recipe = tiny()
    own_loss = replace(recipe, objective=replace(recipe.objective, loss="mine.py:loss"))
    fully_sharded = replace(recipe, parallel=replace(recipe.parallel, sharding="full"))
    for whole in (own_loss, fully_sharded):
        operations = choose(whole)
        assert operations.linear_cross_entropy is None
        assert operations.cross_entropy is FUSED.cross_entropy


def test_apex_that_is_not_there_is_named_with_the_way_out() -> None:
    with pytest.raises(EnvironmentMismatchError, match=r"kernels=apex: NVIDIA apex is not installed.*kernels=auto"):
        choose(replace(tiny(), kernels="apex"))


STAND_INS = {
    "fused_weight_gradient_mlp_cuda.py": "def wgrad_gemm_accum_fp32(inputs, gradient, total): ...",
    "amp_C.py": "multi_tensor_adam = 'the kernel'",
    "apex/__init__.py": "",
    "apex/multi_tensor_apply.py": "calls = []\ndef multi_tensor_applier(*given): calls.append(given)",
}
"""apex cannot be built without CUDA: these have its names and note what they get (csrc/multi_tensor_adam.cu)."""


def test_apex_takes_its_two_operations_and_gets_what_its_kernel_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = replace(tiny(), kernels="apex")
    told = described(recipe, "cuda")
    assert {name for name, what in told.items() if what == "apex"} == {"weight_gradient", "adamw"}

    weight, exp_avg, exp_avg_sq, gradient = (torch.full((3,), float(value)) for value in range(4))
    update = Update(
        learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.2, gradient_factor=0.5, number=7
    )
    kernel = choose(recipe).adamw
    assert kernel is not None
    kernel(weight, exp_avg, exp_avg_sq, gradient, None, update)
    ((called, noop, lists, *numbers),) = importlib.import_module("apex.multi_tensor_apply").calls
    assert called == "the kernel"
    assert not noop.any()
    assert [tensors[0] is each for tensors, each in zip(lists, (gradient, weight, exp_avg, exp_avg_sq), strict=True)]
    assert gradient.tolist() == [1.5, 1.5, 1.5], "clipped"
    assert numbers == [0.1, 0.9, 0.95, 1e-8, 7, 1, 1, 0.2]
