"""The start-up self-test: fused operations pass, and one wrong element of an output or a gradient does not."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.engine import operations
from mai.engine.operations import FUSED, Kernel, Operations
from mai.engine.self_test import TRIALS, disagreements
from mai.errors import OutOfMemoryError
from mai.kernels import adamw, swiglu
from mai.kernels.adamw_update import Update
from mai.recipe import GroupedQueryAttention, Recipe
from mai.train.foreign_errors import as_mai_error
from recipes.debug.every_axis import dense_every_axis, experts_every_axis, latent_every_axis
from recipes.debug.tiny import tiny
from recipes.pretrain.mai1_500b import mai1_500b
from recipes.pretrain.mai1_500b_moe import mai1_500b_moe
from tests.corpus import changed


def found_in(recipe: Recipe) -> list[str]:
    return disagreements(recipe, torch.device("cpu"), known=as_mai_error)


def in_format(recipe: Recipe, compute: str) -> Recipe:
    return changed(recipe, precision={"compute": compute})


def normed() -> Recipe:
    """With norms of heads, and layers without positions among those with a window."""
    options = {"attention": GroupedQueryAttention(qk_norm=True), "window": 8, "global_every": 2}
    return changed(tiny(), model={**options, "global_positions": False})


def fully_sharded() -> Recipe:
    return changed(experts_every_axis(), parallel={"sharding": "full"})


def grouped() -> Recipe:
    recipe = experts_every_axis()
    assert recipe.model.experts is not None
    experts = replace(recipe.model.experts, num_groups=2, groups_per_token=1)
    return changed(recipe, model={"feed_forward": experts})


def test_every_operation_has_a_trial() -> None:
    assert TRIALS.keys() == {field.name for field in fields(Operations)}


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "recipe",
    [
        tiny,
        normed,
        dense_every_axis,
        experts_every_axis,
        latent_every_axis,
        grouped,
        fully_sharded,
        mai1_500b,
        mai1_500b_moe,
    ],
)
def test_what_mai_ships_passes(compute: str, recipe: Callable[[], Recipe]) -> None:
    assert found_in(in_format(recipe(), compute)) == []


def test_the_largest_vocabulary_on_one_rank_passes() -> None:
    assert found_in(changed(mai1_500b(), parallel={"tensor": 1})) == []


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return one_element_wrong(gradient)


def one_element_wrong(x: Tensor) -> Tensor:
    x = x.clone()
    spoil(x)
    return x


def spoil(x: Tensor) -> None:
    last = x.detach().view(-1)[-1:]
    last += 1 + last.abs()


def with_wrong_output(kernel: Kernel, index: int) -> Kernel:
    def wrong(*inputs: Any, **options: Any) -> Any:
        out = kernel(*inputs, **options)
        if not isinstance(out, tuple):
            return one_element_wrong(out)
        return *out[:index], one_element_wrong(out[index]), *out[index + 1 :]

    return wrong


def with_wrong_sum(kernel: Kernel, index: int) -> Kernel:
    """Of those that write into what they are given."""

    def wrong(*inputs: Any) -> None:
        kernel(*inputs)
        spoil(inputs[index])

    return wrong


def with_wrong_gradient(kernel: Kernel, index: int) -> Kernel:
    def wrong(*inputs: Any, **options: Any) -> Any:
        spoiled = _WrongGradient.apply(inputs[index])  # type: ignore[no-untyped-call]
        return kernel(*inputs[:index], spoiled, *inputs[index + 1 :], **options)

    return wrong


OUTPUTS = {"rms_norm_of_sum": 2, "heads": 3, "routing": 2, "expert_rows": 2, "permute": 2}
WRITTEN = {"adamw": range(5), "weight_gradient": (2,)}
INPUTS = {
    "rms_norm": 2,
    "rms_norm_of_sum": 3,
    "swiglu": 1,
    "weighted_swiglu": 2,
    "grouped_linear": 1,
    "heads": 1,
    "rope": 1,
    "routing": 1,
    "permute": 2,
    "unpermute": 1,
    "cross_entropy": 1,
    "linear_cross_entropy": 1,
}
"""Those with a gradient that autograd has."""
WRONG = [
    *(
        (name, with_wrong_output, index)
        for name in TRIALS
        if name not in WRITTEN
        for index in range(OUTPUTS.get(name, 1))
    ),
    # Not AdamW's gradient, which nobody reads again.
    *(
        (name, with_wrong_sum, index)
        for name, places in WRITTEN.items()
        for index in places
        if (name, index) != ("adamw", 3)
    ),
    *((name, with_wrong_gradient, index) for name, count in INPUTS.items() for index in range(count)),
]


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "wrong", "index"), WRONG)
def test_one_wrong_element_of_an_output_or_a_gradient_is_found(
    name: str, wrong: Callable[[Kernel, int], Kernel], index: int, compute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = wrong(getattr(FUSED, name), index)
    monkeypatch.setattr(operations, "FUSED", replace(FUSED, **{name: kernel}))
    recipe = changed(latent_every_axis() if name == "rope" else experts_every_axis(), parallel={"tensor": 1})
    found = found_in(in_format(recipe, compute))
    # A wrong sum of a weight's gradient shows in what adds with it too.
    users = {"grouped_linear", "linear_cross_entropy"} if name == "weight_gradient" else set()
    assert {line.partition(": off by ")[0] for line in found} == {name} | users


def not_a_number(x: Tensor) -> Tensor:
    return swiglu.fused(x) * float("nan")


def too_long(x: Tensor) -> Tensor:
    return swiglu.fused(torch.cat([x, x]))


def no_launch(_: Tensor) -> Tensor:
    raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (not_a_number, "swiglu: off by nan"),
        (too_long, "swiglu: AssertionError: gives (134, 72) and not (67, 72)"),
        (no_launch, "swiglu: RuntimeError: CUDA error: unspecified launch failure"),
    ],
)
def test_a_wrong_operation_is_named_with_its_error(kernel: Kernel, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FUSED", replace(FUSED, swiglu=kernel))
    (found,) = found_in(tiny())
    assert found.startswith(said)
    assert "\n" not in found


def test_a_full_card_is_no_wrong_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, swiglu=without_memory))
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory"):
        found_in(tiny())


OF_EXPERTS = ("weighted_swiglu", "grouped_linear", "routing", "expert_rows", "permute", "unpermute")


@pytest.mark.parametrize(("recipe", "absent"), [(tiny, (*OF_EXPERTS, "rope")), (latent_every_axis, ("heads",))])
def test_what_a_model_has_not_cannot_stop_it(
    recipe: Callable[[], Recipe], absent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: invalid device function")

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, **dict.fromkeys(absent, broken)))
    assert found_in(recipe()) == []


def test_what_is_wrong_at_the_model_s_own_sizes_only_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*inputs: Any, **options: Any) -> Any:
        kernel = with_wrong_output(FUSED.heads, 0) if options["heads"] == 4 else FUSED.heads
        return kernel(*inputs, **options)

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, heads=wrong))
    # 8 heads on two tensor ranks.
    (found,) = found_in(dense_every_axis())
    assert found.startswith("heads: off by ")
    assert found.endswith(", at the model's own sizes")


class _HalfAsLarge(torch.autograd.Function):
    """The gradient of the last entry of a vocabulary."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient[:-1, -1] /= 2
        return gradient


def test_one_wrong_entry_of_a_large_vocabulary_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.size(1) < 200_064:
            return FUSED.cross_entropy(logits, targets)
        return FUSED.cross_entropy(_HalfAsLarge.apply(logits), targets)

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, cross_entropy=wrong))
    (found,) = found_in(changed(mai1_500b(), parallel={"tensor": 1}))
    assert found.startswith("cross_entropy: off by ")
    assert found.endswith(", at the model's own sizes")


def test_a_wrong_gradient_of_a_vocabulary_that_ranks_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    write = torch.ops.mai.cross_entropy_write_gradient
    monkeypatch.setattr(torch.ops.mai, "cross_entropy_write_gradient", with_wrong_sum(write, 0))
    (found,) = found_in(dense_every_axis())
    assert found.startswith("cross_entropy: off by ")


def test_an_update_that_forgets_to_write_the_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(
        weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor, update: Update
    ) -> None:
        adamw.fused(weight, exp_avg, exp_avg_sq, gradient, None, update)

    monkeypatch.setattr(operations, "FUSED", replace(FUSED, adamw=forgetful))
    (found,) = found_in(tiny())
    assert found.startswith("adamw: off by ")


def test_nobody_else_s_random_numbers_are_drawn() -> None:
    before = torch.get_rng_state()
    found_in(tiny())
    assert torch.equal(torch.get_rng_state(), before)
