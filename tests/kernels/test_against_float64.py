"""Every Triton kernel against float64, with ragged shapes and poisoned outputs: on a GPU, or interpreted on a CPU."""

from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from mai.kernels import adamw, cross_entropy, fp8_blocks, rms_norm, rope, sum_of_squares, swiglu
from mai.kernels.adamw_update import Update
from mai.kernels.gpu import adamw as gpu_adamw
from mai.kernels.gpu import column_sums as gpu_column_sums
from mai.kernels.gpu import cross_entropy as gpu_cross_entropy
from mai.kernels.gpu import fp8_blocks as gpu_fp8_blocks
from mai.kernels.gpu import grouped_linear as gpu_grouped_linear
from mai.kernels.gpu import heads as gpu_heads
from mai.kernels.gpu import rms_norm as gpu_rms_norm
from mai.kernels.gpu import rope as gpu_rope
from mai.kernels.gpu import sum_of_squares as gpu_sum_of_squares
from mai.kernels.gpu import swiglu as gpu_swiglu
from tests.kernels.exact import DEVICE, assert_close, draw, each_dtype, exact_gradients, on_gpu_or_interpreted

pytestmark = on_gpu_or_interpreted


@each_dtype
@pytest.mark.parametrize(("tokens", "features"), [(1, 1), (3, 40), (2, 2048), (3, 2049), (0, 8)])
def test_swiglu(dtype: torch.dtype, tokens: int, features: int) -> None:
    both, above = draw(tokens, 2 * features, dtype=dtype), draw(tokens, features, dtype=dtype, seed=1)
    assert_close(gpu_swiglu.forward(both), swiglu.reference(both.double()))
    (of_both,) = exact_gradients(swiglu.reference, both, gradient=above)
    assert_close(gpu_swiglu.backward(both, above), of_both)


@each_dtype
@pytest.mark.parametrize(("tokens", "features"), [(1, 1), (5, 40), (2, 2049), (0, 8)])
def test_weighted_swiglu(dtype: torch.dtype, tokens: int, features: int) -> None:
    def plain(both: Tensor, weight: Tensor) -> Tensor:
        return swiglu.reference(both) * weight[:, None]

    both, above = draw(tokens, 2 * features, dtype=dtype), draw(tokens, features, dtype=dtype, seed=1)
    weight = draw(tokens, seed=2)
    assert_close(gpu_swiglu.weighted_forward(both, weight), plain(both.double(), weight.double()))
    of_both, of_weight = exact_gradients(plain, both, weight, gradient=above)
    ours_both, ours_weight = gpu_swiglu.weighted_backward(both, weight, above)
    assert_close(ours_both, of_both)
    assert_close(ours_weight, of_weight)


@each_dtype
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 40], [0, 0, 0], [7]])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 24), (8, 8), (5, 24), (16, 3)])
def test_grouped_linear(dtype: torch.dtype, counts: list[int], inputs: int, outputs: int) -> None:
    """Experts without tokens, widths that torch's kernel refuses, and tokens that are a strided view."""
    tokens, counts_E = sum(counts), torch.tensor(counts)
    ends_E = counts_E.cumsum(0, dtype=torch.int32).to(DEVICE)
    x = draw(tokens, inputs + 8, dtype=dtype)[:, :inputs]
    weight, above = draw(len(counts), outputs, inputs, dtype=dtype, seed=1), draw(tokens, outputs, seed=2).to(dtype)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([part @ matrix.t() for part, matrix in zip(x.split(counts), weight, strict=True)])

    assert_close(gpu_grouped_linear.product(x, weight.mT, ends_E, counts_E), plain(x.double(), weight.double()))
    of_x, of_weight = exact_gradients(plain, x, weight, gradient=above)
    assert_close(gpu_grouped_linear.product(above, weight, ends_E, counts_E), of_x)
    assert_close(gpu_grouped_linear.weight_gradient(x, above, ends_E, counts_E), of_weight)


@pytest.mark.parametrize(("dtype", "counts"), [(torch.float32, [3, 0, 5]), (torch.bfloat16, [0, 0])])
def test_what_the_library_does_not_take_asks_the_card_for_nothing(dtype: torch.dtype, counts: list[int]) -> None:
    counts_E, tokens = torch.tensor(counts), sum(counts)
    # Whoever asks where these end gets an error.
    ends_E = counts_E.cumsum(0, dtype=torch.int32).to("meta")
    x, weight = draw(tokens, 16, dtype=dtype), draw(len(counts), 16, 8, dtype=dtype, seed=1)
    assert gpu_grouped_linear.product(x, weight, ends_E, counts_E).shape == (tokens, 8)
    gradient = draw(tokens, 8, dtype=dtype, seed=2)
    assert gpu_grouped_linear.weight_gradient(x, gradient, ends_E, counts_E).shape == (len(counts), 8, 16)


# Of the longer rows the first is not loaded ahead, the second goes backward in tiles, over which programs go twice.
NORM_SHAPES = [(1, 1), (3, 40), (2, 3, 1000), (37, 512), (3, 8200), (9, 16_500)]


@each_dtype
@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize("epsilon", [1e-5, 1e-1])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...], epsilon: float) -> None:
    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm.reference(x, weight, epsilon=epsilon)

    x, weight, above = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1), draw(*shape, seed=2)
    above = above.to(dtype)
    out, scale = gpu_rms_norm.forward(x, weight, epsilon)
    assert_close(out, plain(x.double(), weight.double()))
    of_x, of_weight = exact_gradients(plain, x, weight, gradient=above)
    ours_x, ours_weight = gpu_rms_norm.backward(x, weight, scale, above, None)
    # One feature's gradient is a difference of nearly equal numbers.
    assert_close(ours_x, of_x, bound=None if shape[-1] > 1 else 0.1)
    assert_close(ours_weight, of_weight)


@each_dtype
@pytest.mark.parametrize("shape", NORM_SHAPES[1:])
def test_rms_norm_of_sum(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, residual, weight = (
        draw(*shape, dtype=dtype),
        draw(*shape, dtype=dtype, seed=1),
        draw(shape[-1], seed=2).to(dtype),
    )
    above, of_total = draw(*shape, dtype=dtype, seed=3), draw(*shape, dtype=dtype, seed=4)
    out, total, scale = gpu_rms_norm.forward_of_sum(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)

    def plain(total: Tensor, weight: Tensor) -> Tensor:
        return rms_norm.reference(total, weight, epsilon=1e-5)

    assert_close(out, plain(total.double(), weight.double()))
    of_x, of_weight = exact_gradients(plain, total, weight, gradient=above)
    ours_x, ours_weight = gpu_rms_norm.backward(total, weight, scale, above, of_total)
    assert_close(ours_x, of_x + of_total.double())
    assert_close(ours_weight, of_weight)


FROM_FOUR, OF_EACH = torch.arange(4, 9), torch.tensor([[0, 4], [1, 5], [0, 8], [1, 0], [2, 1]])
"""Of five places in two sequences: [S], or [S, B]."""


def tables_of(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    cos, sin = rope.tables(9, [0.5 / (pair + 1) for pair in range(size // 2)])
    return cos[positions].to(DEVICE), sin[positions].to(DEVICE)


@each_dtype
@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 64), (5, 96), (40, 128)])
@pytest.mark.parametrize("positions", [FROM_FOUR, OF_EACH], ids=["one table", "a table for each sequence"])
def test_rope(dtype: torch.dtype, heads: int, size: int, positions: Tensor) -> None:
    # Queries as Megatron cuts them out of one product: strided views.
    whole = draw(5, 2, heads, size + 8, dtype=dtype)
    x = whole[..., :size]
    cos, sin = tables_of(positions, size)
    in_double = (cos.double(), sin.double())
    assert_close(gpu_rope.turn(x, cos, sin, direction=1), plain_rope(x.double(), *in_double))
    above = draw(5, 2, heads, size, dtype=dtype, seed=1)
    (of_x,) = exact_gradients(lambda x: plain_rope(x, *in_double), x, gradient=above)
    assert_close(gpu_rope.turn(above, cos, sin, direction=-1), of_x)


def plain_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As complex numbers: each pair, times its angle's."""
    first, second = x.chunk(2, dim=-1)
    half = x.size(-1) // 2
    angles = torch.complex(cos[..., :half], sin[..., :half])
    turned = torch.complex(first, second) * (angles if angles.dim() == 3 else angles[:, None]).unsqueeze(-2)
    return torch.cat([turned.real, turned.imag], dim=-1)


@each_dtype
@pytest.mark.parametrize(("queries", "keys", "size"), [(1, 1, 2), (5, 5, 24), (18, 2, 128), (33, 3, 96)])
@pytest.mark.parametrize("positions", [FROM_FOUR, OF_EACH, None], ids=["one table", "each", "none"])
@pytest.mark.parametrize("norms", [True, False])
def test_heads(
    dtype: torch.dtype, queries: int, keys: int, size: int, positions: Tensor | None, *, norms: bool
) -> None:
    counts, epsilon = {"heads": queries, "key_heads": keys}, 1e-2
    # A slice of a wider product, as a rank has it that takes its heads out of gathered ones.
    product = draw(5, 2, (queries + 2 * keys) * size + 8, dtype=dtype)[..., :-8]
    given = (None, None) if positions is None else tables_of(positions, size)
    weights = [draw(size, dtype=dtype, seed=seed) for seed in (1, 2)] if norms else []

    def plain(product: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        groups = product.unflatten(-1, (keys, -1, size))
        query, key, value = groups[..., :-2, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        if weights:
            query, key = (rms_norm.reference(x, w, epsilon=epsilon) for x, w in zip((query, key), weights, strict=True))
        cos, sin = given
        if cos is not None and sin is not None:
            query, key = (plain_rope(x, cos.double(), sin.double()) for x in (query, key))
        return query, key, value

    leaves = [x.double().requires_grad_() for x in (product, *weights)]
    outs = plain(*leaves)
    ours = gpu_heads.forward(product, *given, *(weights or (None, None)), *counts.values(), epsilon)
    for our, exact in zip(ours, outs, strict=True):
        assert our.is_contiguous()
        assert_close(our, exact.detach())
    # As an attention gives them: one with its heads outside of its positions, one expanded, one as part of another.
    above = (
        draw(2, queries, 5, size, dtype=dtype, seed=3).permute(2, 0, 1, 3),
        draw(5, 1, keys, size, dtype=dtype, seed=4).expand(-1, 2, -1, -1),
        draw(5, 2, keys, size + 8, dtype=dtype, seed=5)[..., :-8],
    )
    exact_gradients = torch.autograd.grad(outs, leaves, [x.double() for x in above])
    found = (
        gpu_heads.normed_backward(*above, *given, product, *weights, epsilon)
        if norms
        else (gpu_heads.backward(*above, *given),)
    )
    for our, exact in zip(found, exact_gradients, strict=True):
        assert our.is_contiguous()
        assert_close(our, exact)


@each_dtype
@pytest.mark.parametrize("entries", [[7], [4097], [5, 4100], [1, 2, 3]])
def test_cross_entropy_over_ranks(dtype: torch.dtype, entries: list[int]) -> None:
    tokens = 5
    # Large logits: without the maximum their exponentials would overflow.
    logits = (draw(tokens, sum(entries)) * 50).to(dtype)
    targets = torch.randint(sum(entries), (tokens,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    targets[0] = 0
    above = draw(tokens, seed=2)

    def plain(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    parts = [part.clone(memory_format=torch.contiguous_format) for part in logits.split(entries, dim=1)]
    starts = [sum(entries[:rank]) for rank in range(len(entries))]
    statistics = [gpu_cross_entropy.statistics(part, targets, start) for part, start in zip(parts, starts, strict=True)]
    log_sum, target = cross_entropy.combine(torch.stack(statistics))
    assert_close(log_sum - target, plain(logits.double()))
    for part, start in zip(parts, starts, strict=True):
        gpu_cross_entropy.write_gradient(part, targets, log_sum, above, start)
    (of_logits,) = exact_gradients(plain, logits, gradient=above)
    # exp(logit - sum): an fp32 exponent of about 50 has an error of 50 * 2^-24.
    assert_close(torch.cat(parts, dim=1), of_logits, bound=1e-5 if dtype == torch.float32 else None)


@each_dtype
@pytest.mark.parametrize("entries", [8, 1000, 1003, 20_000])
def test_cross_entropy_of_one_rank(dtype: torch.dtype, entries: int) -> None:
    logits = (draw(5, entries) * 50).to(dtype)
    targets = torch.tensor([0, 1, entries - 1, entries // 2, 7], device=DEVICE)
    above = draw(5, seed=2)
    above[:2] = 1

    def plain(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    (of_logits,) = exact_gradients(plain, logits, gradient=above)
    losses = plain(logits.double())
    gradient = logits.clone()
    assert_close(gpu_cross_entropy.loss_and_gradient(gradient, targets), losses)
    gpu_cross_entropy.scale_rows(gradient, above)
    # Rounded twice in bf16; an fp32 exponent of about 50 has an error of 50 * 2^-24.
    assert_close(gradient, of_logits, bound=1e-5 if dtype == torch.float32 else 2.0**-7)


@pytest.mark.parametrize("length", [1, 1000, 1025])
@pytest.mark.parametrize("copied_to", [None, torch.bfloat16])
def test_adamw(length: int, copied_to: torch.dtype | None) -> None:
    ours = [draw(length), draw(length, seed=1), draw(length, seed=2).square(), draw(length, seed=3)]
    exact = [x.double() for x in ours]
    copy = None if copied_to is None else torch.empty(length, dtype=copied_to, device=DEVICE)
    for step in (1, 2, 3):
        update = Update(
            learning_rate=0.1 / step,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            gradient_factor=1 / step,
            number=step,
        )
        gpu_adamw.adamw(*ours, copy, *astuple(update))
        adamw.reference(*exact, None, update)
    for our, their in zip(ours, exact, strict=True):
        assert_close(our, their)
    if copy is not None:
        assert torch.equal(copy, ours[0].to(copied_to))


@each_dtype
@pytest.mark.parametrize(("count", "features"), [(1, 1), (65, 40), (132, 4096)])
def test_column_sums(dtype: torch.dtype, count: int, features: int) -> None:
    # A slice of wider rows, as the two kinds of heads have it.
    x = draw(count, features + 8)[:, :features]
    assert_close(gpu_column_sums.column_sums(x, dtype), x.double().sum(dim=0))


@each_dtype
@pytest.mark.parametrize("length", [0, 1, 4096, 30_000])
def test_sum_of_squares(dtype: torch.dtype, length: int) -> None:
    x = draw(length, dtype=dtype)
    ours = gpu_sum_of_squares.sum_of_squares(x)
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(sum_of_squares.reference(x).item(), rel=1e-6)


FP8_SHAPES = [(1, 1), (0, 8), (3, 200), (130, 257), (256, 128)]


def draw_blocks(rows: int, columns: int) -> Tensor:
    """Rows of very different sizes; a row, a column and a block of 128 x 128 of zeros; strided."""
    x = draw(rows, columns + 3, dtype=torch.bfloat16)[:, 1:-2]
    x *= 10.0 ** torch.arange(rows, device=DEVICE).remainder(12).sub(9)[:, None]
    x[1:2], x[:, 3:4], x[128:, :128] = 0, 0, 0
    return x


def assert_quantised(payload: Tensor, scale_of_each: Tensor, x: Tensor) -> None:
    """e4m3 has 3 bits behind the point, down to 2^-6, and steps of 2^-9 below (Micikevicius et al., arXiv 2209.05433,
    table 1); the scale, what is multiplied by, and the product are rounded to fp32, by 2^-24 each."""
    exact, scale = x.double(), scale_of_each.double()
    error = (payload.double() * scale - exact).abs()
    bound = torch.maximum(2.0**-4 * exact.abs(), 2.0**-10 * scale) + 2.0**-22 * exact.abs()
    assert bool((error <= bound).all())


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    assert ours.dtype == theirs.dtype
    # e4m3 has a zero of either sign.
    return torch.equal(*(x.view(torch.uint8) if x.itemsize == 1 else x for x in (ours, theirs)))


@pytest.mark.parametrize(("tokens", "features"), FP8_SHAPES)
def test_fp8_rows_and_columns(tokens: int, features: int) -> None:
    x = draw_blocks(tokens, features)
    ours = gpu_fp8_blocks.rows_and_columns(x)
    for our, their in zip(ours, fp8_blocks.reference_rows_and_columns(x), strict=True):
        assert same_bits(our, their)
    payload, scale, transposed_payload, transposed_scale = ours
    assert_quantised(payload, scale.repeat_interleave(128, dim=1)[:, :features], x)
    assert_quantised(transposed_payload, transposed_scale.repeat_interleave(128, dim=1)[:, :tokens], x.t())
    of_transpose = gpu_fp8_blocks.rows_and_columns(x.t())
    assert same_bits(of_transpose[0], transposed_payload)
    assert same_bits(of_transpose[1], transposed_scale)


@pytest.mark.parametrize(("outputs", "inputs"), FP8_SHAPES)
def test_fp8_blocks(outputs: int, inputs: int) -> None:
    weight = draw_blocks(outputs, inputs)
    ours = gpu_fp8_blocks.blocks(weight)
    for our, their in zip(ours, fp8_blocks.reference_blocks(weight), strict=True):
        assert same_bits(our, their)
    payload, scale, transposed_payload, transposed_scale = ours
    each = scale.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)[:outputs, :inputs]
    assert_quantised(payload, each, weight)
    assert same_bits(transposed_payload, payload.t().contiguous())
    assert same_bits(transposed_scale, scale.t().contiguous())
