"""Cross entropy over a vocabulary that tensor ranks share out: no fp32 copy of the logits, and their gradient written
over them.

Shapes: T tokens, V this rank's entries of the vocabulary, R ranks.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mai.kernels.operators import operator


def reference(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """-log softmax of each target, fp32 [T], of one rank that holds the whole vocabulary."""
    return F.cross_entropy(logits_TV.float(), targets_T, reduction="none")


def fused(
    logits_TV: Tensor, targets_T: Tensor, *, first_entry: int = 0, group: dist.ProcessGroup | None = None
) -> Tensor:
    """`reference`, where this rank holds the entries from `first_entry` on. All ranks of the group must call.

    Where gradients are wanted, the logits are overwritten with them: nothing else may need them."""
    if _is_whole(group) and torch.is_grad_enabled() and logits_TV.requires_grad:
        return _WholeCrossEntropy.apply(logits_TV, targets_T)  # type: ignore[no-any-return,no-untyped-call]
    return _CrossEntropy.apply(logits_TV, targets_T, first_entry, group)  # type: ignore[no-any-return,no-untyped-call]


def overwrite_with_gradient(
    logits_TV: Tensor, targets_T: Tensor, gradient_T: Tensor, *, first_entry: int, group: dist.ProcessGroup | None
) -> Tensor:
    """The losses; the logits become their gradient, for whom the gradient of each loss is known already.

    All ranks of the group must call; autograd sees nothing of it."""
    if _is_whole(group):
        losses_T: Tensor = _loss_and_gradient(logits_TV, targets_T)
        _scale_rows(logits_TV, gradient_T)
        return losses_T
    log_sum_T, target_T = combine(_gather(_statistics(logits_TV, targets_T, first_entry), group))
    _write_gradient(logits_TV, targets_T, log_sum_T, gradient_T, first_entry)
    return log_sum_T - target_T


def _is_whole(group: dist.ProcessGroup | None) -> bool:
    """Whether one rank holds the whole vocabulary."""
    return group is None or group.size() == 1


class _WholeCrossEntropy(torch.autograd.Function):
    """Loss and gradient of a rank that holds the whole vocabulary, from one reading."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, targets_T: Tensor) -> Tensor:
        # Detached: autograd would see that a tensor changed, and nobody reads it again.
        ctx.gradient_TV = logits_TV.detach()
        return _loss_and_gradient(ctx.gradient_TV, targets_T)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor, None]:
        # The sum of all losses has a gradient of one for each: then nothing is read or written.
        _scale_rows(ctx.gradient_TV, gradient_T.contiguous())
        return ctx.gradient_TV, None


class _CrossEntropy(torch.autograd.Function):
    """The same over ranks that each hold a part: what they found is gathered between the two readings."""

    @staticmethod
    def forward(
        ctx: Any, logits_TV: Tensor, targets_T: Tensor, first_entry: int, group: dist.ProcessGroup | None
    ) -> Tensor:
        log_sum_T, target_T = combine(_gather(_statistics(logits_TV, targets_T, first_entry), group))
        ctx.save_for_backward(logits_TV, targets_T, log_sum_T)
        ctx.first_entry = first_entry
        return log_sum_T - target_T

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor, None, None, None]:
        logits_TV, targets_T, log_sum_T = ctx.saved_tensors
        # Past autograd's eye: it would see that a saved tensor changed, and nobody reads it again.
        gradient_TV = logits_TV.detach()
        _write_gradient(gradient_TV, targets_T, log_sum_T, gradient_T.contiguous(), ctx.first_entry)
        return gradient_TV, None, None, None


def _gather(statistics_3T: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[R, 3, T] of all ranks: one collective, where a maximum and two sums would be three."""
    if group is None or _is_whole(group):
        return statistics_3T[None]
    gathered = statistics_3T.new_empty((group.size() * 3, statistics_3T.size(1)))
    dist.all_gather_into_tensor(gathered, statistics_3T, group=group)
    statistics_R3T: Tensor = gathered.unflatten(0, (-1, 3))
    return statistics_R3T


def combine(statistics_R3T: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of the sum of all exponentials, and the target's logit."""
    largest_RT, sums_RT, targets_RT = statistics_R3T.unbind(dim=1)
    largest_T = largest_RT.amax(dim=0)
    sum_T = (sums_RT * (largest_RT - largest_T).exp()).sum(dim=0)
    return largest_T + sum_T.log(), targets_RT.sum(dim=0)


def _own_target(logits_TV: Tensor, targets_T: Tensor, first_entry: int) -> tuple[Tensor, Tensor]:
    """The column of each target here, and whether it is here."""
    column_T = targets_T - first_entry
    is_here_T = (column_T >= 0) & (column_T < logits_TV.size(-1))
    return column_T.where(is_here_T, 0), is_here_T


def _cpu_statistics(logits_TV: Tensor, targets_T: Tensor, first_entry: int) -> Tensor:
    logits = logits_TV.float()
    largest_T = logits.amax(dim=-1)
    sum_T = (logits - largest_T[:, None]).exp().sum(dim=-1)
    column_T, is_here_T = _own_target(logits, targets_T, first_entry)
    target_T = logits.gather(-1, column_T[:, None])[:, 0].where(is_here_T, 0)
    return torch.stack([largest_T, sum_T, target_T])


def _cpu_write_gradient(
    logits_TV: Tensor, targets_T: Tensor, log_sum_T: Tensor, gradient_T: Tensor, first_entry: int
) -> None:
    of_logits = (logits_TV.float() - log_sum_T[:, None]).exp()
    column_T, is_here_T = _own_target(logits_TV, targets_T, first_entry)
    of_logits.scatter_add_(-1, column_T[:, None], -is_here_T.float()[:, None])
    logits_TV.copy_(of_logits * gradient_T[:, None])


def _cpu_loss_and_gradient(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    log_softmax_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    losses_T = -log_softmax_TV.gather(-1, targets_T[:, None])[:, 0]
    of_logits = log_softmax_TV.exp_()
    of_logits.scatter_add_(-1, targets_T[:, None], of_logits.new_tensor(-1.0).expand(targets_T.numel(), 1))
    logits_TV.copy_(of_logits)
    return losses_T


def _cpu_scale_rows(x_TV: Tensor, factor_T: Tensor) -> None:
    if not bool((factor_T == 1).all()):
        x_TV.mul_(factor_T[:, None])


_loss_and_gradient = operator(
    "cross_entropy_loss_and_gradient(Tensor(a!) logits, Tensor targets) -> Tensor",
    cpu=_cpu_loss_and_gradient,
    cuda="cross_entropy.loss_and_gradient",
    fake=lambda logits, targets: logits.new_empty((logits.size(0),), dtype=torch.float32),
)
_scale_rows = operator(
    "scale_rows(Tensor(a!) x, Tensor factor) -> ()",
    cpu=_cpu_scale_rows,
    cuda="cross_entropy.scale_rows",
    fake=lambda x, factor: None,
)
_statistics = operator(
    "cross_entropy_statistics(Tensor logits, Tensor targets, int first_entry) -> Tensor",
    cpu=_cpu_statistics,
    cuda="cross_entropy.statistics",
    fake=lambda logits, targets, first_entry: logits.new_empty((3, logits.size(0)), dtype=torch.float32),
)
_write_gradient = operator(
    "cross_entropy_write_gradient"
    "(Tensor(a!) logits, Tensor targets, Tensor log_sum, Tensor gradient, int first_entry) -> ()",
    cpu=_cpu_write_gradient,
    cuda="cross_entropy.write_gradient",
    fake=lambda logits, targets, log_sum, gradient, first_entry: None,
)
