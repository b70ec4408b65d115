"""Context parallelism: every rank holds an early and a late part of each sequence and attends to all that came before.

Megatron's own context-parallel attention needs Transformer Engine. This one gathers keys and values of all ranks, as
Llama 3 does (arXiv 2407.21783, section 3.3.2): with grouped queries they are small beside the attention itself.
Shapes: S positions of the whole sequence, L of this rank, B sequences, H query heads, G key and value heads, D size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mai.parallel.context import order_of_all_parts, own_parts

AttentionCore = Callable[..., Tensor]
"""Queries [Q, B, H, D], the last of the K positions of keys and values [K, B, G, D] -> [Q, B, H, D of the values].

With `starts_BQ`, where there are segments: the first of the K positions that each query may see."""


class Positions:
    """The positions that this rank holds, and their rotary tables: the one place that knows both."""

    def __init__(self, tables: tuple[Tensor, Tensor], group: dist.ProcessGroup | None) -> None:
        """`tables`: cos and sin [S, D], fp32. `group`: the context ranks; None for one."""
        self.whole_tables = tables
        self._rank, self._ranks = (0, 1) if group is None else (group.rank(), group.size())

    def tables(self, length: int, *, start: int = 0) -> tuple[Tensor, Tensor]:
        """cos and sin [L, D] of this rank's positions; `start` is the first one, of a sequence that is not cut (while
        generating)."""
        cos_LD, sin_LD = (self._of_this_rank(table, length, start) for table in self.whole_tables)
        return cos_LD, sin_LD

    def _of_this_rank(self, table_SD: Tensor, length: int, start: int) -> Tensor:
        if self._ranks == 1:
            return table_SD[start : start + length]
        parts = own_parts(length * self._ranks, rank=self._rank, ranks=self._ranks)
        return torch.cat([table_SD[part.start : part.stop] for part in parts])


def own_columns(x_BS: Tensor, *, rank: int, ranks: int) -> Tensor:
    """This context rank's part [B, L] of whole sequences."""
    if ranks == 1:
        return x_BS
    return torch.cat([x_BS[:, part.start : part.stop] for part in own_parts(x_BS.size(1), rank=rank, ranks=ranks)], 1)


def whole_rows(x_BL: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All context ranks' columns in the order of the sequence, [B, S]; all of them must call."""
    whole_SB: Tensor = _WholeSequence.apply(x_BL.t(), group)  # type: ignore[no-untyped-call]
    return whole_SB.t()


def with_segments(core: AttentionCore, starts_BQ: Tensor | None) -> AttentionCore:
    """The core that looks no further back than this; the core as it is where there are no segments."""
    return core if starts_BQ is None else partial(core, starts_BQ=starts_BQ)


def attend(
    query_LBHD: Tensor,
    key_LBGD: Tensor,
    value_LBGD: Tensor,
    starts_BL: Tensor | None,
    group: dist.ProcessGroup,
    *,
    core: AttentionCore,
) -> Tensor:
    """Causal attention of this rank's queries to the whole sequence, or as far back as their segments begin; returns
    [L, B, H, D]. All context ranks call."""
    key_SBGD, value_SBGD = (_WholeSequence.apply(x, group) for x in (key_LBGD, value_LBGD))  # type: ignore[no-untyped-call]
    parts = own_parts(key_SBGD.size(0), rank=group.rank(), ranks=group.size())
    starts = (None, None) if starts_BL is None else starts_BL.chunk(2, dim=1)
    return torch.cat(
        [
            with_segments(core, starts_BQ)(query, key_SBGD[: part.stop], value_SBGD[: part.stop])
            for query, starts_BQ, part in zip(query_LBHD.chunk(2), starts, parts, strict=True)
        ]
    )


class _WholeSequence(torch.autograd.Function):
    """All ranks' parts in the order of the sequence; backward sums what all ranks' queries say about this rank's."""

    @staticmethod
    def forward(ctx: Any, x_LBGD: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = x_LBGD.new_empty(group.size() * x_LBGD.size(0), *x_LBGD.shape[1:])
        dist.all_gather_into_tensor(gathered, x_LBGD.contiguous(), group=group)
        by_rank = gathered.unflatten(0, (2 * group.size(), -1))
        whole = torch.empty_like(by_rank)
        whole[order_of_all_parts(group.size())] = by_rank
        return whole.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient_SBGD: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.group.size()
        parts = gradient_SBGD.unflatten(0, (2 * ranks, -1))
        # Summed in fp32: with many ranks bf16 would lose what the later ones add.
        by_rank = parts[order_of_all_parts(ranks)].flatten(0, 1).float()
        own_LBGD = by_rank.new_empty(by_rank.size(0) // ranks, *by_rank.shape[1:])
        dist.reduce_scatter_tensor(own_LBGD, by_rank, group=ctx.group)
        return own_LBGD.to(gradient_SBGD.dtype), None
