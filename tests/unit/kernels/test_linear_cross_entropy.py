"""Output layer and cross entropy in chunks: the numbers of the plain form, the logits of one chunk at a time."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mai.kernels import cross_entropy, linear_cross_entropy, weight_gradient
from mai.parallel.place import Place
from tests.float64 import relative_error
from tests.ranks import on_ranks

TOKENS, HIDDEN, VOCABULARY = 7, 6, 11
each_chunk = pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 4096])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(tokens: int = TOKENS, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states that are not contiguous, a weight, targets."""
    hidden = (draw(HIDDEN, tokens) * 3).to(dtype).t()
    targets = torch.arange(tokens) * 5 % VOCABULARY
    return hidden, draw(VOCABULARY, HIDDEN, seed=1).to(dtype), targets


def computed(gradient: Tensor | None, *given: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, gradient of the hidden states, and what stands in the sum of the weight's, which held ones."""
    hidden, weight, targets = given
    total, leaf = torch.ones(weight.shape), hidden.detach().requires_grad_()
    losses = linear_cross_entropy.fused(leaf, weight, targets, gradient, sum_VH=total, **options)
    (of_hidden,) = torch.autograd.grad(losses, leaf, torch.ones_like(losses) if gradient is None else gradient)
    return losses.detach(), of_hidden, total


def exact(gradient: Tensor | None, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in float64, by autograd."""
    leaves = [hidden.double().detach().requires_grad_(), weight.double().detach().requires_grad_()]
    losses = torch.nn.functional.cross_entropy(leaves[0] @ leaves[1].t(), targets, reduction="none")
    above = torch.ones_like(losses) if gradient is None else gradient.double()
    of_hidden, of_weight = torch.autograd.grad(losses, leaves, above)
    return losses.detach(), of_hidden, of_weight + 1


def assert_close(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...], bound: float) -> None:
    for our, their in zip(ours, expected, strict=True):
        assert our.shape == their.shape
        assert relative_error(our, their) <= bound


@each_chunk
@pytest.mark.parametrize("gradient", [None, draw(TOKENS, seed=2)], ids=["ones", "any"])
def test_losses_and_both_gradients_are_those_of_float64(chunk_tokens: int, gradient: Tensor | None) -> None:
    assert_close(computed(gradient, *inputs(), chunk_tokens=chunk_tokens), exact(gradient, *inputs()), 1e-6)


@each_chunk
def test_halves_round_once_or_twice(chunk_tokens: int) -> None:
    given, gradient = inputs(dtype=torch.bfloat16), draw(TOKENS, seed=2)
    losses, of_hidden, total = computed(gradient, *given, chunk_tokens=chunk_tokens)
    assert (losses.dtype, of_hidden.dtype, total.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert_close((losses, of_hidden, total), exact(gradient, *given), 2.0**-6)


def test_no_tokens_are_a_chunk_too() -> None:
    losses, of_hidden, total = computed(None, *inputs(0))
    assert (losses.shape, of_hidden.shape) == ((0,), (0, HIDDEN))
    assert torch.equal(total, torch.ones(VOCABULARY, HIDDEN))


def test_one_chunk_is_the_two_steps_to_the_last_bit() -> None:
    hidden, weight, targets = inputs()
    logits = (hidden @ weight.t()).requires_grad_()
    losses = cross_entropy.fused(logits, targets)
    (of_logits,) = torch.autograd.grad(losses, logits, torch.ones_like(losses))
    total = torch.ones(weight.shape)
    weight_gradient.fused(hidden, of_logits, total)
    for our, their in zip(computed(None, hidden, weight, targets), (losses, of_logits @ weight, total), strict=True):
        assert torch.equal(our, their)


def test_without_gradients_the_losses_are_the_same_and_the_sum_is_left_alone() -> None:
    hidden, weight, targets = inputs()
    total = torch.ones(weight.shape)
    with torch.no_grad():
        losses = linear_cross_entropy.fused(
            hidden.clone().requires_grad_(), weight, targets, sum_VH=total, chunk_tokens=3
        )
    assert_close((losses, total), (exact(None, *inputs())[0], torch.ones(weight.shape).double()), 1e-6)


@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_a_loss_with_another_gradient_than_foreseen_is_refused(factor: float) -> None:
    hidden, weight, targets = inputs()
    losses = linear_cross_entropy.fused(
        hidden.clone().requires_grad_(), weight, targets, sum_VH=torch.zeros(weight.shape)
    )
    with pytest.raises(RuntimeError, match="linear_cross_entropy: the loss has another gradient"):
        (losses.sum() * factor).backward()


def test_a_target_whose_weight_is_no_number_gives_a_gradient_that_the_guard_skips() -> None:
    hidden, weight, targets = inputs()
    weights = torch.ones(targets.shape)
    weights[1] = float("nan")
    leaf = hidden.clone().requires_grad_()
    losses = linear_cross_entropy.fused(
        leaf, weight, targets, sum_VH=torch.zeros(weight.shape), gradient_T=weights.reshape(-1)
    )
    (losses * weights).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isnan().any()


def test_three_matrix_products_and_all_of_them_forward() -> None:
    hidden, weight, targets = inputs()
    with FlopCounterMode(display=False) as forward:
        losses = linear_cross_entropy.fused(
            hidden.clone().requires_grad_(), weight, targets, sum_VH=torch.zeros(weight.shape), chunk_tokens=3
        )
    with FlopCounterMode(display=False) as backward:
        losses.sum().backward()
    assert forward.get_total_flops() == 3 * 2 * TOKENS * HIDDEN * VOCABULARY
    assert backward.get_total_flops() == 0


class LogitsAlive(TorchDispatchMode):
    """Counts the elements of all tensors with a column for each entry of the vocabulary that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        is_new = all(result.alias_info is None for result in function._schema.returns)
        if is_new and isinstance(out, Tensor) and out.dim() == 2 and out.size(1) == VOCABULARY:
            self._alive.add(out)
            self.most = max(self.most, sum(x.numel() for x in self._alive))
        return out


@pytest.mark.parametrize("wants_gradients", [True, False])
def test_the_logits_of_one_chunk_are_all_that_is_ever_there(wants_gradients: bool) -> None:  # noqa: FBT001
    hidden, weight, targets = inputs()
    leaf, total = hidden.clone().requires_grad_(wants_gradients), torch.zeros(weight.shape)
    with LogitsAlive() as logits:
        losses = linear_cross_entropy.fused(leaf, weight, targets, sum_VH=total, chunk_tokens=3)
        if wants_gradients:
            losses.sum().backward()
    assert logits.most == 3 * VOCABULARY


@pytest.mark.slow
def test_it_compiles_as_one_graph() -> None:
    def call(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight, targets = inputs()
        total, leaf = torch.ones(weight.shape), hidden.clone().requires_grad_()
        losses = function(leaf, weight, targets, sum_VH=total, chunk_tokens=3)
        losses.sum().backward()
        assert leaf.grad is not None
        return losses.detach(), leaf.grad, total

    compiled = torch.compile(linear_cross_entropy.fused, fullgraph=True, backend="aot_eager")
    assert_close(call(compiled), call(linear_cross_entropy.fused), 1e-6)


def shared_out(place: Place) -> tuple[Any, ...]:
    """Runs on every rank, each with its entries of the vocabulary: losses, its part of the gradient, its sum."""
    import torch.distributed as dist

    from mai.engine.groups import join_world

    join_world(backend="gloo", place=place, timeout_seconds=60)
    hidden, weight, targets = inputs()
    sizes = [4, 7]
    options = {"first_entry": sum(sizes[: place.rank]), "group": dist.group.WORLD, "chunk_tokens": 3}
    found = computed(draw(TOKENS, seed=2), hidden, weight.split(sizes)[place.rank], targets, **options)
    return tuple(x.numpy() for x in found)


@pytest.mark.slow
def test_ranks_that_share_out_the_vocabulary_give_the_same_losses_and_parts_of_the_gradients() -> None:
    first, second = ([torch.from_numpy(x) for x in found] for found in on_ranks(2, shared_out))
    assert torch.equal(first[0], second[0])
    whole = (first[0], first[1] + second[1], torch.cat([first[2], second[2]]))
    assert_close(whole, exact(draw(TOKENS, seed=2), *inputs()), 1e-6)
