"""The output layer and the cross entropy of its logits, in chunks of tokens: the logits never exist whole.

    each chunk   logits = hidden weight^T, which the cross entropy overwrites with their gradient
                 gradient of hidden = logits weight
                 gradient of weight += logits^T hidden, in its fp32 sum

Three matrix products and no recomputation, because all of it happens in the forward pass. The price: what the backward
pass will say of each loss must be known by then, and the backward pass must follow.

Shapes: T tokens, C of a chunk, H hidden size, V this rank's entries of the vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mai.kernels import cross_entropy, weight_gradient

# Every chunk reads and writes the whole fp32 sum, 2.1 GB at 128,256 entries and a hidden size of 4,096; the logits of
# this many tokens are 1.05 GB there, in bf16.
CHUNK_TOKENS = 4096


def reference(hidden_TH: Tensor, weight_VH: Tensor, targets_T: Tensor) -> Tensor:
    """-log softmax of each target, fp32 [T], of one rank that holds the whole vocabulary."""
    return cross_entropy.reference(hidden_TH @ weight_VH.t(), targets_T)


def fused(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    gradient_T: Tensor | None = None,
    *,
    sum_VH: Tensor | None = None,
    first_entry: int = 0,
    group: dist.ProcessGroup | None = None,
    add_gradient: Callable[[Tensor, Tensor, Tensor], None] = weight_gradient.fused,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """`reference`, where this rank holds the entries from `first_entry` on. All ranks of the group must call.

    Where gradients are wanted, the forward pass adds the weight's to `sum_VH` by `add_gradient`; autograd gets none of
    it, and of `hidden_TH` this rank's part. `gradient_T`, fp32 [T], is what the backward pass will bring for the
    losses; None stands for ones, which their sum brings. For anything else the backward pass raises RuntimeError, on a
    GPU some time later. Where no gradients are wanted, nothing is added, and `sum_VH` may be None."""
    weight_VH = weight_VH.detach()
    if not (torch.is_grad_enabled() and hidden_TH.requires_grad):
        return torch.cat(
            [
                cross_entropy.fused(hidden_CH @ weight_VH.t(), targets_C, first_entry=first_entry, group=group)
                for hidden_CH, targets_C in _chunks(chunk_tokens, hidden_TH, targets_T)
            ]
        )

    assert sum_VH is not None

    def losses_and_gradients(hidden_CH: Tensor, targets_C: Tensor, gradient_C: Tensor, of_hidden_CH: Tensor) -> Tensor:
        logits_CV = hidden_CH @ weight_VH.t()
        losses_C = cross_entropy.overwrite_with_gradient(
            logits_CV, targets_C, gradient_C, first_entry=first_entry, group=group
        )
        torch.mm(logits_CV, weight_VH, out=of_hidden_CH)
        add_gradient(hidden_CH, logits_CV, sum_VH)
        return losses_C

    if gradient_T is None:
        gradient_T = torch.ones_like(targets_T, dtype=torch.float32)
    of_hidden_TH = torch.empty_like(hidden_TH, memory_format=torch.contiguous_format)
    with torch.no_grad():
        # A chunk's logits are free again when its call returns, before the next one's are there.
        chunks = _chunks(chunk_tokens, hidden_TH, targets_T, gradient_T, of_hidden_TH)
        losses_T = torch.cat([losses_and_gradients(*chunk) for chunk in chunks])
    return _LinearCrossEntropy.apply(hidden_TH, losses_T, of_hidden_TH, gradient_T)  # type: ignore[no-any-return,no-untyped-call]


def _chunks(tokens: int, *whole: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(tokens) for x in whole), strict=True)


class _LinearCrossEntropy(torch.autograd.Function):
    """The losses, and the gradient of `hidden_TH` for what the backward pass was foreseen to bring."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, losses_T: Tensor, of_hidden_TH: Tensor, foreseen_T: Tensor) -> Tensor:
        ctx.save_for_backward(of_hidden_TH, foreseen_T)
        return losses_T.view_as(losses_T)

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor, None, None, None]:
        of_hidden_TH, foreseen_T = ctx.saved_tensors
        # Checked on the device: nobody waits for it. A weight that is no number equals nothing, itself included, and
        # has made the gradient one that the guard skips.
        torch._assert_async(
            ((gradient_T == foreseen_T) | foreseen_T.isnan()).all(),
            "linear_cross_entropy: the loss has another gradient than the one that its weight's was computed with",
        )
        return of_hidden_TH, None, None, None
