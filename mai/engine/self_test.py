"""The start-up self-test: what a run computes with, each operation forward and backward against its twin in plain
torch.

A card that computes wrongly and a kernel that was built wrongly show here, and not in a loss curve a week later.

Shapes: T tokens, V entries of the vocabulary, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mai.engine.operations import Kernel, choose, compute_dtype
from mai.engine.router import rule_of
from mai.errors import MaiError
from mai.kernels import (
    adamw,
    cross_entropy,
    grouped_linear,
    heads,
    linear_cross_entropy,
    permutation,
    rms_norm,
    rope,
    routing,
    sum_of_squares,
    swiglu,
    weight_gradient,
)
from mai.kernels.adamw_update import Update
from mai.model.rotary import table_size
from mai.recipe import MixtureOfExperts, ModelConfig, Recipe

# Of the odd sizes many, so that no kernel's blocks divide them; of the model's own, whose rows are long, few.
_MANY_TOKENS, _FEW_TOKENS = 67, 3

# Of an element's error by its own size plus that of its tensor's average element, so that one wrong element shows.
# bf16 rounds by 2^-9, and an operation rounds up to three times; sums and exponentials in fp32 are right to some 1e-6.
# Far above both: a false alarm stops a whole job.
_BOUNDS = {torch.bfloat16: 2.0**-6, torch.float32: 2.0**-14, torch.float64: 2.0**-14}


def disagreements(recipe: Recipe, device: torch.device, *, known: Callable[[Exception], MaiError | None]) -> list[str]:
    """A line for each operation of the model that is not its twin, with its error and its bound, or that fails to run.

    What fails for a cause that is `known`, a full card or disk, is raised as the error of that cause: no kernel is to
    blame."""
    chosen = choose(recipe)
    found = []
    for name, trial in TRIALS.items():
        kernel = getattr(chosen, name)
        if kernel is None or kernel is trial.twin or not trial.is_needed(recipe.model):
            continue
        try:
            said = _compared(kernel, trial, recipe, device)
        except Exception as failure:
            if (error := known(failure)) is not None:
                raise error from failure
            # A kernel that cannot be built or launched is told as one that is wrong.
            said = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
        if said is not None:
            found.append(f"{name}: {said}")
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """How an operation is run: `run(kernel, draw, recipe, tokens)` gives its outputs and gradients at the sizes that
    one rank of the recipe has."""

    twin: Kernel
    run: Callable[[Kernel, "Draws", Recipe, int], Sequence[Tensor]]
    is_needed: Callable[[ModelConfig], bool] = lambda _: True
    """Whether such a model computes with it: what it never launches must not stop it."""


@dataclass(slots=True)
class Draws:
    """Random numbers, the same for an operation and for its twin, which gets them in fp64."""

    dtype: torch.dtype
    device: torch.device
    is_exact: bool
    # Drawn on the CPU: a card that draws wrongly would draw the same for both.
    _generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """From N(0, 1), in the run's dtype where none is given."""
        numbers = torch.randn(shape, generator=self._generator).to(dtype or self.dtype)
        return numbers.to(self.device, torch.float64 if self.is_exact else numbers.dtype)


def _compared(kernel: Kernel, trial: Trial, recipe: Recipe, device: torch.device) -> str | None:
    """What is wrong with it; None if nothing is."""
    dtype = compute_dtype(recipe.precision)
    # The model's own sizes choose the kernels that the run itself will launch.
    for sizes, at, tokens in (("odd", _odd(recipe), _MANY_TOKENS), ("the model's own", recipe, _FEW_TOKENS)):
        ours = trial.run(kernel, Draws(dtype, device, is_exact=False), at, tokens)
        exact = trial.run(trial.twin, Draws(dtype, device, is_exact=True), at, tokens)
        for our, their in zip(ours, exact, strict=True):
            error, bound = _largest_error(our, their), _BOUNDS[our.dtype]
            # NaN is wrong too.
            if not error <= bound:
                return f"off by {error:.1e} where {bound:.1e} is allowed, at {sizes} sizes"
    return None


def _odd(recipe: Recipe) -> Recipe:
    """The same parts in the same layout, of sizes that are no multiples of a block of any kernel."""
    model, ranks = recipe.model, recipe.parallel
    experts, latent = model.experts, model.latent_attention
    feed_forward, attention = model.feed_forward, model.attention
    if experts is not None:
        num_groups, groups_per_token = (8, 4) if experts.num_groups > 1 else (1, 1)
        feed_forward = replace(
            experts,
            num_experts=72,
            experts_per_token=8,
            num_groups=num_groups,
            groups_per_token=groups_per_token,
            ffn_hidden_size=72 * ranks.expert_tensor,
        )
    if latent is not None:
        attention = replace(latent, key_value_rank=40, query_rank=56, rotary_head_size=48)
    model = replace(
        model,
        hidden_size=72,
        ffn_hidden_size=72 * ranks.tensor,
        num_heads=6 * ranks.tensor,
        num_kv_heads=2 * ranks.tensor,
        head_size=48,
        vocab_size=72 * ranks.tensor,
        attention=attention,
        feed_forward=feed_forward,
    )
    return replace(recipe, model=model)


def _largest_error(ours: Tensor, exact: Tensor) -> float:
    assert ours.shape == exact.shape, f"gives {tuple(ours.shape)} and not {tuple(exact.shape)}"
    exact = exact.double()
    size = exact.abs() + exact.square().mean().sqrt()
    return float(((ours.double() - exact).abs() / size).max())


def _both_ways(function: Callable[..., Any], draw: Draws, *inputs: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    outs = out if isinstance(out, tuple) else (out,)
    above = [draw(*x.shape).to(x.dtype) for x in outs]
    return [*(x.detach() for x in outs), *torch.autograd.grad(outs, leaves, above)]


def _rms_norm(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    latent = recipe.model.latent_attention
    widths = [recipe.model.hidden_size, *(() if latent is None else (latent.key_value_rank, latent.query_rank))]
    call = partial(kernel, epsilon=1e-5)
    return [x for width in widths if width for x in _both_ways(call, draw, draw(tokens, width), draw(width))]


def _rms_norm_of_sum(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    width = recipe.model.hidden_size
    return _both_ways(partial(kernel, epsilon=1e-5), draw, draw(tokens, width), draw(tokens, width), draw(width))


def _swiglu(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    return _both_ways(kernel, draw, draw(tokens, 2 * recipe.model.ffn_hidden_size // recipe.parallel.tensor))


def _weighted_swiglu(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    features = 2 * _experts(recipe).ffn_hidden_size // recipe.parallel.expert_tensor
    return _both_ways(kernel, draw, draw(tokens, features), draw(tokens, dtype=torch.float32))


def _experts(recipe: Recipe) -> MixtureOfExperts:
    assert recipe.model.experts is not None
    return recipe.model.experts


def _grouped_linear(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    counts, width = torch.tensor([tokens // 2, 0, tokens - tokens // 2]), recipe.model.hidden_size
    total = torch.zeros(3, 24, width, device=draw.device)
    add_gradient = choose(recipe).weight_gradient
    adds = add_gradient is not None and not draw.is_exact
    options: dict[str, Any] = {"sum_EOI": total, "add_gradient": add_gradient} if adds else {}
    out, of_x, of_weight = _both_ways(
        lambda x, weight: kernel(x, weight, counts, **options), draw, draw(tokens, width), draw(3, 24, width)
    )
    return [out, of_x, total if adds else of_weight]


def _heads(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    model, ranks = recipe.model, recipe.parallel.tensor
    call = partial(kernel, heads=model.num_heads // ranks, key_heads=model.num_kv_heads // ranks, epsilon=1e-5)
    features = (model.num_heads + 2 * model.num_kv_heads) // ranks * model.head_size
    is_normed = model.has_head_norms and not model.norms_all_heads
    inputs = (draw(tokens, 2, features), *(draw(model.head_size) for _ in range(2 * is_normed)))
    found = []
    # Turned elsewhere where norms come before.
    for turns in sorted({model.turns(layer) and not model.norms_all_heads for layer in range(model.num_layers)}):
        tables = _tables(model, tokens, draw.device) if turns else None
        found += _both_ways(lambda x, *weights, tables=tables: call(x, tables, weights or None), draw, *inputs)
    return found


def _rope(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    model = recipe.model
    still, turned, heads_here = model.head_size, table_size(model), model.num_heads // recipe.parallel.tensor
    tables = _tables(model, tokens, draw.device)
    # Strided, as latent attention cuts the rotary part out of a head.
    return _both_ways(lambda x: kernel(x, *tables), draw, draw(tokens, 2, heads_here, still + turned)[..., still:])


def _tables(model: ModelConfig, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    cos, sin = rope.tables(tokens, [0.5**pair for pair in range(table_size(model) // 2)])
    return cos.to(device), sin.to(device)


def _routing(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    experts = _experts(recipe)
    rule = rule_of(experts)
    logits_TE = draw(tokens, experts.num_experts, dtype=torch.float32)
    bias_E = draw(experts.num_experts, dtype=torch.float32) if experts.bias_update_rate else None
    found = []
    # What the tokens follow, and what the balancing loss counts.
    for bias, by in ((bias_E, rule), (None, replace(rule, num_groups=1))):
        _, experts_TK = kernel(logits_TE, bias, by)
        found += [
            experts_TK.double(),
            *_both_ways(lambda logits_TE, bias=bias, by=by: kernel(logits_TE, bias, by)[0], draw, logits_TE),
        ]
    return found


def _picked(draw: Draws, recipe: Recipe, tokens: int) -> Tensor:
    experts = _experts(recipe)
    return draw(tokens, experts.num_experts, dtype=torch.float32).topk(experts.experts_per_token).indices


def _expert_rows(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    return [x.double() for x in kernel(_picked(draw, recipe, tokens), _experts(recipe).num_experts)]


def _rows(draw: Draws, recipe: Recipe, tokens: int) -> Tensor:
    return permutation.reference_expert_rows(_picked(draw, recipe, tokens), _experts(recipe).num_experts)[0]


def _permute(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    rows_TK = _rows(draw, recipe, tokens)
    x, weights_TK = draw(tokens, recipe.model.hidden_size), draw(*rows_TK.shape, dtype=torch.float32)
    return _both_ways(lambda x, weights_TK: kernel(x, weights_TK, rows_TK), draw, x, weights_TK)


def _unpermute(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    rows_TK = _rows(draw, recipe, tokens)
    return _both_ways(lambda x: kernel(x, rows_TK), draw, draw(rows_TK.numel(), recipe.model.hidden_size))


def _cross_entropy(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    ranks = recipe.parallel.tensor
    # Of one rank, or of the first two: other kernels compute where the vocabulary is shared out.
    entries = recipe.model.vocab_size // ranks * min(ranks, 2)
    logits = draw(tokens, entries)
    # From the first entry to the last, over all blocks of a row.
    targets = torch.arange(tokens, device=draw.device) * (entries - 1) // (tokens - 1)
    # Where no gradients are wanted another kernel computes, as in evaluation.
    evaluated = kernel(logits, targets)
    if ranks > 1 and not draw.is_exact:
        losses, of_logits = _of_two_ranks(logits, targets, draw(tokens).float())
    else:
        # Not the leaf itself: the backward pass overwrites what it is given.
        losses, of_logits = _both_ways(lambda logits: kernel(logits * 1, targets), draw, logits)
    column = targets[:, None]
    # Apart: beside the targets' gradients all others of a large vocabulary are too small for an error to show.
    return [evaluated, losses, of_logits.gather(1, column), of_logits.scatter(1, column, 0)]


def _of_two_ranks(logits_TV: Tensor, targets_T: Tensor, gradient_T: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradients by the operators that the ranks call around their collective, which is no part of this."""
    parts = [part.contiguous() for part in logits_TV.chunk(2, dim=1)]
    starts = (0, parts[0].size(1))
    statistics = [
        torch.ops.mai.cross_entropy_statistics(part, targets_T, start)
        for part, start in zip(parts, starts, strict=True)
    ]
    log_sum_T, target_T = cross_entropy.combine(torch.stack(statistics))
    for part, start in zip(parts, starts, strict=True):
        torch.ops.mai.cross_entropy_write_gradient(part, targets_T, log_sum_T, gradient_T, start)
    return log_sum_T - target_T, torch.cat(parts, dim=1)


def _linear_cross_entropy(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    width = recipe.model.hidden_size
    # Logits of about one, whatever the width: rounded to halves, larger ones are another softmax. By a power of two,
    # which rounds nothing.
    weight = (draw(24, width) * 2.0 ** -(width.bit_length() // 2)).requires_grad_()
    hidden, total = draw(tokens, width).requires_grad_(), torch.zeros(24, width, device=draw.device)
    # Autograd has the weight's gradient of the twin.
    options: dict[str, Any] = {}
    if not draw.is_exact:
        options = {"sum_VH": total, "add_gradient": choose(recipe).weight_gradient, "chunk_tokens": 50}
    losses = kernel(hidden, weight, torch.arange(tokens, device=draw.device) * 7 % 24, **options)
    losses.sum().backward()
    assert hidden.grad is not None
    of_weight = total if weight.grad is None else weight.grad
    # The logits were rounded to the run's dtype.
    return [losses.detach().to(draw.dtype), hidden.grad, of_weight.to(draw.dtype)]


def _sum_of_squares(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    return [kernel(draw(tokens * recipe.model.hidden_size, dtype=torch.float32))]


def _adamw(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    length = tokens * recipe.model.hidden_size
    weight, exp_avg, exp_avg_sq, gradient = (draw(length, dtype=torch.float32) for _ in range(4))
    exp_avg_sq.square_()
    copy = draw(length)
    update = Update(
        learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, gradient_factor=0.5, number=3
    )
    kernel(weight, exp_avg, exp_avg_sq, gradient, copy, update)
    return [weight, exp_avg, exp_avg_sq, copy]


def _weight_gradient(kernel: Kernel, draw: Draws, recipe: Recipe, tokens: int) -> list[Tensor]:
    width = recipe.model.hidden_size
    total = draw(24, width, dtype=torch.float32)
    kernel(draw(tokens, width), draw(tokens, 24), total)
    return [total]


def _has_experts(model: ModelConfig) -> bool:
    return model.experts is not None


def _is_swiglu(model: ModelConfig) -> bool:
    return model.activation == "swiglu"


def _turns_apart(model: ModelConfig) -> bool:
    """Whether queries and keys are turned by an operation of its own: in latent attention, or a layer of one's own."""
    return model.latent_attention is not None or model.layer is not None


TRIALS = {
    "rms_norm": Trial(rms_norm.reference, _rms_norm),
    "rms_norm_of_sum": Trial(rms_norm.reference_of_sum, _rms_norm_of_sum),
    "swiglu": Trial(swiglu.reference, _swiglu, _is_swiglu),
    "weighted_swiglu": Trial(
        swiglu.weighted_reference, _weighted_swiglu, lambda model: _has_experts(model) and _is_swiglu(model)
    ),
    "grouped_linear": Trial(grouped_linear.reference, _grouped_linear, _has_experts),
    "heads": Trial(heads.reference, _heads, lambda model: model.latent_attention is None),
    "rope": Trial(rope.reference, _rope, _turns_apart),
    "routing": Trial(routing.reference, _routing, _has_experts),
    "expert_rows": Trial(permutation.reference_expert_rows, _expert_rows, _has_experts),
    "permute": Trial(permutation.reference_permute, _permute, _has_experts),
    "unpermute": Trial(permutation.reference_unpermute, _unpermute, _has_experts),
    # Where the output layer has it too, for its kernels: that layer's own trial has few entries.
    "cross_entropy": Trial(cross_entropy.reference, _cross_entropy),
    "linear_cross_entropy": Trial(linear_cross_entropy.reference, _linear_cross_entropy),
    "sum_of_squares": Trial(sum_of_squares.reference, _sum_of_squares),
    "adamw": Trial(adamw.reference, _adamw),
    "weight_gradient": Trial(weight_gradient.reference, _weight_gradient),
}
"""By the name in `Operations`: a new operation gets a row here."""
