"""Fused operations on the CPU, where the operator is plain torch: the same numbers as the reference, sound gradients,
and all that torch asks of an operator."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mai.kernels import (
    adamw,
    cross_entropy,
    fp8_blocks,
    grouped_linear,
    heads,
    permutation,
    rms_norm,
    rope,
    routing,
    sum_of_squares,
    swiglu,
    weight_gradient,
)
from mai.kernels.adamw_update import Update


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


COS, SIN = rope.tables(6, (1.0, 0.5, 0.1))
OF_EACH = torch.tensor([[0, 3], [1, 0], [2, 1], [0, 2], [1, 3], [2, 4]])
TABLES_OF_EACH = (COS[OF_EACH], SIN[OF_EACH])
TARGETS = torch.tensor([0, 3, 6, 2])
PICKED = torch.tensor([[0, 2], [1, 2], [0, 3], [2, 3], [0, 1]])
ROWS, _ = permutation.reference_expert_rows(PICKED, 4)
BIAS = draw(6, seed=3)
BY_SIGMOID = routing.Rule(experts_per_token=2, scores="sigmoid", scale=2.5, num_groups=2, groups_per_token=1)
BY_SOFTMAX = routing.Rule(experts_per_token=2, scores="softmax", scale=1.5)
COUNTS = torch.tensor([5, 0, 7])
HEADS: dict[str, Any] = {"heads": 4, "key_heads": 2, "epsilon": 1e-3}

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]] = {
    "swiglu": (swiglu.reference, swiglu.fused, (draw(3, 5, 8),)),
    "weighted swiglu": (swiglu.weighted_reference, swiglu.weighted_fused, (draw(5, 8), draw(5, seed=1))),
    "grouped linear": (
        lambda x, weight: grouped_linear.reference(x, weight, COUNTS),
        lambda x, weight: grouped_linear.fused(x, weight, COUNTS),
        (draw(12, 8), draw(3, 5, 8, seed=1)),
    ),
    "norm": (
        lambda x, weight: rms_norm.reference(x, weight, epsilon=1e-3),
        lambda x, weight: rms_norm.fused(x, weight, epsilon=1e-3),
        (draw(3, 5, 8), draw(8, seed=1)),
    ),
    "norm of a sum": (
        lambda *inputs: rms_norm.reference_of_sum(*inputs, epsilon=1e-3),
        lambda *inputs: rms_norm.fused_of_sum(*inputs, epsilon=1e-3),
        (draw(3, 5, 8), draw(3, 5, 8, seed=1), draw(8, seed=2)),
    ),
    "rope": (
        lambda x: rope.reference(x, COS, SIN),
        lambda x: rope.fused(x, COS, SIN),
        (draw(6, 2, 3, 6),),
    ),
    "rope, positions of each sequence": (
        lambda x: rope.reference(x, *TABLES_OF_EACH),
        lambda x: rope.fused(x, *TABLES_OF_EACH),
        (draw(6, 2, 3, 6),),
    ),
    "heads": (
        lambda product: heads.reference(product, (COS, SIN), None, **HEADS),
        lambda product: heads.fused(product, (COS, SIN), None, **HEADS),
        (draw(6, 2, 48),),
    ),
    "normed heads": (
        lambda product, *weights: heads.reference(product, (COS, SIN), weights, **HEADS),
        lambda product, *weights: heads.fused(product, (COS, SIN), weights, **HEADS),
        (draw(6, 2, 48), draw(6, seed=1), draw(6, seed=2)),
    ),
    "normed heads, positions of each sequence": (
        lambda product, *weights: heads.reference(product, TABLES_OF_EACH, weights, **HEADS),
        lambda product, *weights: heads.fused(product, TABLES_OF_EACH, weights, **HEADS),
        (draw(6, 2, 48), draw(6, seed=1), draw(6, seed=2)),
    ),
    "normed heads that are not turned": (
        lambda product, *weights: heads.reference(product, None, weights, **HEADS),
        lambda product, *weights: heads.fused(product, None, weights, **HEADS),
        (draw(6, 2, 48), draw(6, seed=1), draw(6, seed=2)),
    ),
    "routing by sigmoid": (
        lambda logits: routing.reference(logits, BIAS, BY_SIGMOID)[0],
        lambda logits: routing.fused(logits, BIAS, BY_SIGMOID)[0],
        (draw(5, 6),),
    ),
    "routing by softmax": (
        lambda logits: routing.reference(logits, None, BY_SOFTMAX)[0],
        lambda logits: routing.fused(logits, None, BY_SOFTMAX)[0],
        (draw(5, 6),),
    ),
    "permute": (
        lambda tokens, weights: permutation.reference_permute(tokens, weights, ROWS),
        lambda tokens, weights: permutation.fused_permute(tokens, weights, ROWS),
        (draw(5, 8), draw(5, 2, seed=1)),
    ),
    "unpermute": (
        lambda x: permutation.reference_unpermute(x, ROWS),
        lambda x: permutation.fused_unpermute(x, ROWS),
        (draw(10, 8),),
    ),
    "cross entropy": (
        lambda logits: cross_entropy.reference(logits * 1, TARGETS),
        # Not the leaf itself: the backward pass overwrites what it is given.
        lambda logits: cross_entropy.fused(logits * 1, TARGETS),
        (draw(4, 7) * 5,),
    ),
}
each_pair = pytest.mark.parametrize("name", PAIRS)


def outputs_and_gradients(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    outs = out if isinstance(out, tuple) else (out,)
    above = [draw(*x.shape, dtype=x.dtype, seed=9 + index) for index, x in enumerate(outs)]
    return [*(x.detach() for x in outs), *torch.autograd.grad(outs, leaves, above)]


@each_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_is_the_reference(name: str, dtype: torch.dtype) -> None:
    reference, fused, inputs = PAIRS[name]
    inputs = tuple(x.to(dtype) for x in inputs)
    for ours, expected in zip(
        outputs_and_gradients(fused, inputs), outputs_and_gradients(reference, inputs), strict=True
    ):
        assert ours.dtype == expected.dtype
        bound = 1e-6 if ours.dtype == torch.float32 and dtype == torch.float32 else 2.0**-6
        assert (ours - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("weighted swiglu", "cross entropy")])
def test_gradients_are_those_of_the_function(name: str) -> None:
    """Against finite differences, in float64; the two others compute in fp32 whatever they are given."""
    _, fused, inputs = PAIRS[name]
    torch.autograd.gradcheck(fused, tuple(x.double().requires_grad_() for x in inputs))


def operator_calls() -> dict[str, tuple[Any, ...]]:
    both, x, weight, scale = draw(3, 8), draw(3, 8), draw(8, seed=1), draw(3, seed=2)
    flat = [draw(9, seed=seed).square() for seed in range(4)]
    logits, targets = draw(4, 7), TARGETS
    ends = COUNTS.cumsum(0, dtype=torch.int32)
    of_each = (draw(6, 2, 4, 6), draw(6, 2, 2, 6), draw(6, 2, 2, 6, seed=1))
    head_weights = (draw(6), draw(6, seed=1))
    return {
        "swiglu": (both,),
        "swiglu_backward": (both, draw(3, 4)),
        "weighted_swiglu": (both, scale),
        "weighted_swiglu_backward": (both, scale, draw(3, 4)),
        "grouped_product": (draw(12, 8), draw(3, 8, 5), ends, COUNTS),
        "grouped_weight_gradient": (draw(12, 8), draw(12, 5), ends, COUNTS),
        "rms_norm": (x, weight, 1e-5),
        "rms_norm_of_sum": (x, x + 1, weight, 1e-5),
        "rms_norm_backward": (x, weight, scale, x + 1, x + 2),
        "rope": (draw(6, 2, 3, 6), COS, SIN, -1),
        "heads": (draw(6, 2, 48), COS, SIN, *head_weights, 4, 2, 1e-5),
        "heads_backward": (*of_each, None, None),
        "heads_normed_backward": (*of_each, COS, SIN, draw(6, 2, 48), *head_weights, 1e-5),
        "cross_entropy_loss_and_gradient": (logits, targets),
        "scale_rows": (logits, draw(4)),
        "cross_entropy_statistics": (logits, targets, 2),
        "cross_entropy_write_gradient": (logits, targets, draw(4), draw(4, seed=1), 2),
        "routing": (draw(5, 6), BIAS, *astuple(BY_SIGMOID)),
        "routing_backward": (draw(5, 2), PICKED, draw(5, 2, seed=1), 6, "sigmoid", 2.5, True),
        "expert_rows": (PICKED, 4),
        "permute": (draw(5, 8), draw(5, 2), ROWS),
        "permute_backward": (draw(10, 8), draw(10), ROWS),
        "unpermute": (draw(10, 8), ROWS),
        "unpermute_backward": (draw(5, 8), ROWS),
        "adamw": (*flat, torch.empty(9, dtype=torch.bfloat16), 1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3),
        "sum_of_squares": (x,),
        "add_weight_gradient": (draw(8, 4), draw(3, 4), draw(3, 8)),
        "fp8_rows_and_columns": (draw(130, 200).bfloat16(),),
        "fp8_blocks": (draw(130, 200).bfloat16(),),
    }


@pytest.mark.slow
def test_torch_accepts_every_operator() -> None:
    """Schemas that say what is written, fakes with the real shapes, tracing with shapes that change."""
    calls = operator_calls()
    registered = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("mai::")}
    assert registered == calls.keys(), "an operator without a row here, or a row without an operator"
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(torch.ops.mai, name).default, arguments)


@pytest.mark.slow
def test_a_layer_s_operations_compile_as_one_graph() -> None:
    def layer(x: Tensor, residual: Tensor, weight: Tensor, of_experts: Tensor) -> Tensor:
        normal, total = rms_norm.fused_of_sum(x, residual, weight, epsilon=1e-5)
        query, key, _ = heads.fused(normal, (COS, SIN), None, heads=1, key_heads=1, epsilon=1e-5)
        turned = rope.fused(query + key, COS, SIN).squeeze(2)
        both = torch.cat([turned, total], dim=-1).flatten(0, 1)
        return swiglu.fused(grouped_linear.fused(both, of_experts, COUNTS))

    inputs = (draw(6, 2, 18), draw(6, 2, 18, seed=1), draw(18, seed=2), draw(3, 8, 24, seed=3))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(
        outputs_and_gradients(compiled, inputs), outputs_and_gradients(layer, inputs), strict=True
    ):
        assert torch.equal(ours, expected)


def test_a_layer_of_experts_compiles_as_one_graph() -> None:
    def layer(x: Tensor, logits: Tensor) -> Tensor:
        weights, experts = routing.fused(logits, BIAS, BY_SIGMOID)
        rows, _ = permutation.fused_expert_rows(experts, 6)
        permuted, weights = permutation.fused_permute(x, weights, rows)
        return permutation.fused_unpermute(swiglu.weighted_fused(permuted, weights), rows)

    inputs = (draw(5, 8), draw(5, 6, seed=1))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(
        outputs_and_gradients(compiled, inputs), outputs_and_gradients(layer, inputs), strict=True
    ):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("positions", [1, 6])
def test_heads_keep_no_product_alive(positions: int) -> None:
    """Not even that of one position, of which every head is a contiguous view."""
    product = draw(positions, 1, 18)
    outs = heads.fused(product, None, None, heads=1, key_heads=1, epsilon=1e-5)
    assert all(out.is_contiguous() for out in outs)
    assert len({x.untyped_storage().data_ptr() for x in (product, *outs)}) == 4


def test_quantising_compiles_as_one_graph() -> None:
    def both(x: Tensor) -> tuple[Tensor, ...]:
        return *fp8_blocks.quantise_rows_and_columns(x), *fp8_blocks.quantise_blocks(x)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    x = draw(130, 200).bfloat16()
    for ours, expected in zip(compiled(x), both(x), strict=True):
        assert ours.stride() == expected.stride()
        assert torch.equal(ours.float(), expected.float())


def test_an_update_is_torch_s_adamw_after_clipping() -> None:
    weight, gradients = torch.nn.Parameter(draw(11)), [draw(11, seed=seed) for seed in (1, 2, 3)]
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    ours, exp_avg, exp_avg_sq = weight.detach().clone(), torch.zeros(11), torch.zeros(11)
    copy = torch.empty(11, dtype=torch.bfloat16)
    for number, gradient in enumerate(gradients, start=1):
        weight.grad = gradient * 0.25
        optimizer.step()
        update = Update(
            learning_rate=0.1,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            gradient_factor=0.25,
            number=number,
        )
        adamw.fused(ours, exp_avg, exp_avg_sq, gradient, copy, update)
    assert torch.equal(ours, weight)
    assert torch.equal(copy, ours.bfloat16())


def test_a_weight_gradient_is_added_to_what_is_there_and_its_operations_are_counted() -> None:
    inputs, gradient, total = draw(5, 3), draw(5, 4, seed=1), draw(4, 3, seed=2)
    expected = total.clone()
    weight_gradient.reference(inputs, gradient, expected)
    with FlopCounterMode(display=False) as counter:
        weight_gradient.fused(inputs, gradient, total)
    torch.testing.assert_close(total, expected)
    assert counter.get_total_flops() == 2 * 5 * 3 * 4


def test_gradients_of_experts_are_added_to_their_sum_and_an_expert_without_tokens_keeps_its_own() -> None:
    x, weight, total = draw(12, 8).requires_grad_(), draw(3, 5, 8, seed=1).requires_grad_(), draw(3, 5, 8, seed=2)
    before, above = total.clone(), draw(12, 5, seed=3)
    expected = torch.autograd.grad(grouped_linear.reference(x, weight, COUNTS), (x, weight), above)
    with FlopCounterMode(display=False) as counter:
        out = grouped_linear.fused(x, weight, COUNTS, sum_EOI=total)
        of_x, _ = torch.autograd.grad(out, (x, weight), above)
    torch.testing.assert_close(of_x, expected[0])
    torch.testing.assert_close(total, before + expected[1])
    assert torch.equal(total[1], before[1])
    assert counter.get_total_flops() == 3 * 2 * 12 * 8 * 5


def test_an_expert_without_tokens_has_a_gradient_of_zeros() -> None:
    x, weight = draw(12, 8), draw(3, 5, 8, seed=1).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        grouped_linear.fused(x, weight, COUNTS).sum().backward()
    assert weight.grad is not None
    assert not weight.grad[1].any()
    assert counter.get_total_flops() == 3 * 2 * 12 * 8 * 5


def test_squares_are_summed_in_float64() -> None:
    x = torch.full((2**12,), 1.0)
    x[0] = 2.0**13
    assert sum_of_squares.fused(x).item() == 2.0**26 + 2**12 - 1


def test_with_tables_of_its_own_a_sequence_is_turned_as_if_it_were_alone() -> None:
    x = draw(6, 2, 3, 6)
    together = rope.reference(x, *TABLES_OF_EACH)
    for sequence in range(2):
        positions = OF_EACH[:, sequence]
        alone = rope.reference(x[:, sequence : sequence + 1], COS[positions], SIN[positions])
        assert torch.equal(together[:, sequence : sequence + 1], alone)
