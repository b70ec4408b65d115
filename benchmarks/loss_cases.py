"""What benchmarks/kernels.py measures at the end of Llama 3 8B: cross entropy, alone and with the output layer."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.kernel_case import Call, Case, draw, liger, megatron
from benchmarks.kernel_cases import HIDDEN, TOKENS
from mai.kernels import cross_entropy, linear_cross_entropy, weight_gradient

VOCABULARY = 128256
WITH_Z_LOSS = False  # Liger's: a second loss, of the logits' size


def cross_entropy_cases() -> Iterator[Case]:
    logits, targets = draw(TOKENS, VOCABULARY), torch.randint(VOCABULARY, (TOKENS,), device="cuda")
    # As the trainer asks: of the sum of all losses. What each token counts is folded into the step.
    above = torch.ones(TOKENS, device="cuda")

    def both_passes(function: Callable[[Tensor], Tensor]) -> Call:
        # The backward pass overwrites the logits; any numbers take the same time.
        def call() -> Any:
            leaf = logits.detach().requires_grad_()
            losses = function(leaf)
            return losses, torch.autograd.grad(losses, leaf, above.to(losses.dtype))

        return call

    def once() -> Any:
        return cross_entropy.reference(logits.float(), targets)

    compiled = torch.compile(cross_entropy.reference)
    # Before any backward pass: only the forward pass leaves the logits as they are.
    yield Case(
        "cross entropy, forward",
        logits.nbytes,
        {
            "mai": lambda: cross_entropy.fused(logits, targets),
            "torch": lambda: cross_entropy.reference(logits, targets),
            "torch.compile": lambda: compiled(logits, targets),
        },
        exact=once,
    )
    group = dist.group.WORLD
    calls = {
        "mai": both_passes(lambda x: cross_entropy.fused(x, targets)),
        "torch": both_passes(lambda x: cross_entropy.reference(x, targets)),
        "torch.compile": both_passes(lambda x: compiled(x, targets)),
        "Megatron, fused": both_passes(
            megatron(
                "core.fusions.fused_cross_entropy",
                lambda module: (
                    lambda x: module.fused_vocab_parallel_cross_entropy(x[:, None], targets[:, None], group)[:, 0]
                ),
            )
        ),
        "Liger": both_passes(
            liger(
                "ops.cross_entropy",
                lambda module: (
                    lambda x: module.LigerCrossEntropyFunction.apply(x, targets, None, -100, 0.0, 0.0, "none")[0]
                ),
            )
        ),
    }
    yield Case("cross entropy, loss and gradient", 2 * logits.nbytes, calls)


def output_layer_cases() -> Iterator[Case]:
    """Both passes of both, the weight's gradient added to its fp32 sum; they return that of the hidden states."""
    hidden, weight = draw(TOKENS, HIDDEN), draw(VOCABULARY, HIDDEN) / 64
    targets = torch.randint(VOCABULARY, (TOKENS,), device="cuda")
    total = torch.zeros(VOCABULARY, HIDDEN, device="cuda")
    above = torch.ones(TOKENS, device="cuda")

    def in_chunks() -> Any:
        leaf = hidden.detach().requires_grad_()
        losses = linear_cross_entropy.fused(leaf, weight, targets, sum_VH=total)
        return torch.autograd.grad(losses, leaf, above)

    def with_whole_logits() -> Any:
        logits = (hidden @ weight.t()).requires_grad_()
        (of_logits,) = torch.autograd.grad(cross_entropy.fused(logits, targets), logits, above)
        weight_gradient.fused(hidden, of_logits, total)
        return [of_logits @ weight]

    def by_autograd(summed_loss: Callable[..., Tensor], hidden: Tensor = hidden, weight: Tensor = weight) -> Any:
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        of_hidden, of_weight = torch.autograd.grad(summed_loss(*leaves), leaves)
        total.add_(of_weight)
        return [of_hidden]

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy.reference(hidden, weight, targets).sum()

    def of_torch(hidden: Tensor, weight: Tensor) -> Tensor:
        # Not in torch 2.11.
        options = torch.nn.LinearCrossEntropyOptions()
        return torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)

    of_liger = liger(
        "ops.fused_linear_cross_entropy",
        lambda module: (
            lambda hidden, weight: module.LigerFusedLinearCrossEntropyFunction.apply(
                hidden, weight, targets, None, None, -100, 0.0, 0.0, "sum", None, WITH_Z_LOSS, torch.float32
            )[0]
        ),
    )
    calls: dict[str, Call] = {
        "mai": in_chunks,
        "mai, whole logits": with_whole_logits,
        "torch": partial(by_autograd, plain),
        "torch.compile": partial(by_autograd, torch.compile(plain)),
        "torch, in chunks": partial(by_autograd, of_torch),
        "Liger": partial(by_autograd, of_liger),
    }
    yield Case(
        "output layer + cross entropy",
        0,
        calls,
        exact=lambda: by_autograd(plain, hidden.float(), weight.float()),
        flops=6 * TOKENS * HIDDEN * VOCABULARY,
    )


LOSS_CASES = [cross_entropy_cases, output_layer_cases]
