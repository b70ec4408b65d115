"""The start-up self-test: every operation that a run has chosen, forward and backward, against its twin in plain torch.

A card that computes wrongly and a kernel that was built wrongly show here, and not in a loss curve a week later.

Shapes: T tokens, W features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mai.engine.operations import Kernel, choose
from mai.engine.translate import compute_dtype
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
from mai.recipe import Recipe

# No multiple of a block of any kernel; the second width is the model's own, whose kernel the run itself will launch.
_RAGGED_WIDTH = 72
_NUM_TOKENS = (3, 67)
_NUM_EXPERTS = 72

# Of an element's error by its own size plus that of its tensor's average element, so that one wrong element shows.
# bf16 rounds by 2^-9, and an operation rounds up to three times; sums and exponentials in fp32 are right to some 1e-6.
# Far above both: a false alarm stops a whole job.
_BOUNDS = {torch.bfloat16: 2.0**-6, torch.float32: 2.0**-14, torch.float64: 2.0**-14}


def disagreements(recipe: Recipe, device: torch.device) -> list[str]:
    """A line for each chosen operation that is not its twin, with its error and its bound, or that fails to run."""
    chosen = choose(recipe)
    found = []
    for name, trial in TRIALS.items():
        kernel = getattr(chosen, name)
        if kernel is None or kernel is trial.twin:
            continue
        try:
            said = _compared(kernel, trial, recipe, device)
        except Exception as failure:  # noqa: BLE001 (a kernel that cannot be built or launched is told as one that is wrong)
            said = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
        if said is not None:
            found.append(f"{name}: {said}")
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """How an operation is run: `run(kernel, draw, tokens, width)` gives its outputs and gradients."""

    twin: Kernel
    run: Callable[[Kernel, "Draws", int, int], Sequence[Tensor]]


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
    for tokens, width in zip(_NUM_TOKENS, (_RAGGED_WIDTH, recipe.model.hidden_size), strict=True):
        ours = trial.run(kernel, Draws(dtype, device, is_exact=False), tokens, width)
        exact = trial.run(trial.twin, Draws(dtype, device, is_exact=True), tokens, width)
        for our, their in zip(ours, exact, strict=True):
            error, bound = _largest_error(our, their), _BOUNDS[our.dtype]
            # NaN is wrong too.
            if not error <= bound:
                return f"off by {error:.1e} where {bound:.1e} is allowed, at {tokens} x {width}"
    return None


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


def _rms_norm(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    return _both_ways(partial(kernel, epsilon=1e-5), draw, draw(tokens, width), draw(width))


def _rms_norm_of_sum(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    return _both_ways(partial(kernel, epsilon=1e-5), draw, draw(tokens, width), draw(tokens, width), draw(width))


def _swiglu(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    return _both_ways(kernel, draw, draw(tokens, 2 * width))


def _weighted_swiglu(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    return _both_ways(kernel, draw, draw(tokens, 2 * width), draw(tokens, dtype=torch.float32))


def _grouped_linear(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    counts = torch.tensor([tokens // 2, 0, tokens - tokens // 2])
    return _both_ways(lambda x, weight: kernel(x, weight, counts), draw, draw(tokens, width), draw(3, 24, width))


def _heads(kernel: Kernel, draw: Draws, tokens: int, _: int) -> list[Tensor]:
    call = partial(kernel, heads=6, key_heads=2, epsilon=1e-5)
    tables, features = _tables(tokens, draw.device), 10 * 64
    turned = _both_ways(lambda product: call(product, tables, None), draw, draw(tokens, 2, features))
    # With norms another kernel goes back.
    inputs = (draw(tokens, 2, features), draw(64), draw(64))
    return [*turned, *_both_ways(lambda product, *weights: call(product, tables, weights), draw, *inputs)]


def _rope(kernel: Kernel, draw: Draws, tokens: int, _: int) -> list[Tensor]:
    tables = _tables(tokens, draw.device)
    # Strided, as latent attention cuts the rotary part out of a head.
    return _both_ways(lambda x: kernel(x, *tables), draw, draw(tokens, 2, 3, 96)[..., :64])


def _tables(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    cos, sin = rope.tables(tokens, [0.5**pair for pair in range(32)])
    return cos.to(device), sin.to(device)


def _routing(kernel: Kernel, draw: Draws, tokens: int, _: int) -> list[Tensor]:
    logits_TE = draw(tokens, _NUM_EXPERTS, dtype=torch.float32)
    bias_E = draw(_NUM_EXPERTS, dtype=torch.float32)
    found = []
    for rule in (
        routing.Rule(experts_per_token=8, scores="softmax", scale=1.5),
        routing.Rule(experts_per_token=8, scores="sigmoid", scale=2.5, num_groups=8, groups_per_token=4),
    ):
        _, experts_TK = kernel(logits_TE, bias_E, rule)
        weights = _both_ways(lambda logits_TE, rule=rule: kernel(logits_TE, bias_E, rule)[0], draw, logits_TE)
        found += [experts_TK.double(), *weights]
    return found


def _picked(draw: Draws, tokens: int) -> Tensor:
    return draw(tokens, _NUM_EXPERTS, dtype=torch.float32).topk(8).indices


def _expert_rows(kernel: Kernel, draw: Draws, tokens: int, _: int) -> list[Tensor]:
    return [x.double() for x in kernel(_picked(draw, tokens), _NUM_EXPERTS)]


def _permute(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    rows_TK, _ = permutation.reference_expert_rows(_picked(draw, tokens), _NUM_EXPERTS)
    weights_TK = draw(tokens, 8, dtype=torch.float32)
    return _both_ways(lambda x, weights_TK: kernel(x, weights_TK, rows_TK), draw, draw(tokens, width), weights_TK)


def _unpermute(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    rows_TK, _ = permutation.reference_expert_rows(_picked(draw, tokens), _NUM_EXPERTS)
    return _both_ways(lambda x: kernel(x, rows_TK), draw, draw(8 * tokens, width))


def _cross_entropy(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    targets = torch.arange(tokens, device=draw.device) * 7 % width
    # Not the leaf itself: the backward pass overwrites what it is given.
    trained = _both_ways(lambda logits: kernel(logits * 1, targets), draw, draw(tokens, width))
    # Where no gradients are wanted another kernel computes, as in evaluation.
    return [*trained, kernel(draw(tokens, width), targets)]


def _linear_cross_entropy(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    # Logits of about one, whatever the width: rounded to halves, larger ones are another softmax. By a power of two,
    # which rounds nothing.
    weight = (draw(24, width) * 2.0 ** -(width.bit_length() // 2)).requires_grad_()
    hidden, total = draw(tokens, width).requires_grad_(), torch.zeros(24, width, device=draw.device)
    # Autograd has the weight's gradient of the twin.
    options: dict[str, Any] = {} if draw.is_exact else {"sum_VH": total, "chunk_tokens": 50}
    losses = kernel(hidden, weight, torch.arange(tokens, device=draw.device) * 7 % 24, **options)
    losses.sum().backward()
    assert hidden.grad is not None
    of_weight = total if weight.grad is None else weight.grad
    # The logits were rounded to the run's dtype.
    return [losses.detach().to(draw.dtype), hidden.grad, of_weight.to(draw.dtype)]


def _sum_of_squares(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    return [kernel(draw(tokens * width, dtype=torch.float32))]


def _adamw(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    weight, exp_avg, exp_avg_sq, gradient = (draw(tokens * width, dtype=torch.float32) for _ in range(4))
    exp_avg_sq.square_()
    copy = draw(tokens * width)
    update = adamw.Update(
        learning_rate=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, gradient_factor=0.5, number=3
    )
    kernel(weight, exp_avg, exp_avg_sq, gradient, copy, update)
    return [weight, exp_avg, exp_avg_sq, copy]


def _weight_gradient(kernel: Kernel, draw: Draws, tokens: int, width: int) -> list[Tensor]:
    total = draw(24, width, dtype=torch.float32)
    kernel(draw(tokens, width), draw(tokens, 24), total)
    return [total]


TRIALS = {
    "rms_norm": Trial(rms_norm.reference, _rms_norm),
    "rms_norm_of_sum": Trial(rms_norm.reference_of_sum, _rms_norm_of_sum),
    "swiglu": Trial(swiglu.reference, _swiglu),
    "weighted_swiglu": Trial(swiglu.weighted_reference, _weighted_swiglu),
    "grouped_linear": Trial(grouped_linear.reference, _grouped_linear),
    "heads": Trial(heads.reference, _heads),
    "rope": Trial(rope.reference, _rope),
    "routing": Trial(routing.reference, _routing),
    "expert_rows": Trial(permutation.reference_expert_rows, _expert_rows),
    "permute": Trial(permutation.reference_permute, _permute),
    "unpermute": Trial(permutation.reference_unpermute, _unpermute),
    "cross_entropy": Trial(cross_entropy.reference, _cross_entropy),
    "linear_cross_entropy": Trial(linear_cross_entropy.reference, _linear_cross_entropy),
    "sum_of_squares": Trial(sum_of_squares.reference, _sum_of_squares),
    "adamw": Trial(adamw.reference, _adamw),
    "weight_gradient": Trial(weight_gradient.reference, _weight_gradient),
}
"""By the name in `Operations`: a new operation gets a row here."""
