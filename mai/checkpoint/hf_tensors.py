"""Carry out a weight map: tensors of a Hugging Face checkpoint to ours, and back, element for element.

Shapes: matrices are [rows, columns] as in torch; a bias is a matrix without columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mai.model.hf_rules import (
    Alternating,
    CutByHead,
    HeadOrder,
    InterleavedRotary,
    Making,
    OfHeads,
    Repeated,
    Same,
    Source,
    Stacked,
    StackedByHead,
)


def to_ours(making: Making, sources: Sequence[Tensor]) -> Tensor:
    """Our tensor of those that `making.sources` name, in their order."""
    if isinstance(making, Stacked):
        return torch.cat(list(sources))
    if isinstance(making, StackedByHead):
        return _by_head(sources, making.num_kv_heads, making.order)
    if isinstance(making, CutByHead):
        rows = [count * making.order.size for count in (making.num_heads, making.num_kv_heads, making.num_kv_heads)]
        return _by_head(sources[0].split(rows), making.num_kv_heads, making.order)
    if isinstance(making, OfHeads):
        return _ordered(sources[0], making.order)
    if isinstance(making, Repeated):
        return sources[0]
    (tensor,) = sources
    if isinstance(making, Same):
        return tensor.t().contiguous() if making.is_transposed else tensor
    if isinstance(making, Alternating):
        pairs = tensor.unflatten(-1, (-1, 2)).movedim(-1, 0)
        return torch.cat([half if half.dim() == 1 else half.t() for half in pairs]).contiguous()
    return _rotary_rows(tensor, making, to_halves=True)


def to_theirs(making: Making, ours: Tensor) -> dict[Source, Tensor]:
    """The other way: every source's tensor, or its entry."""
    if isinstance(making, Stacked):
        return dict(zip(making.sources, ours.chunk(2), strict=True))
    if isinstance(making, StackedByHead):
        return dict(zip(making.sources, _apart(ours, making.num_kv_heads, making.order), strict=True))
    if isinstance(making, CutByHead):
        return {making.source: torch.cat(_apart(ours, making.num_kv_heads, making.order))}
    if isinstance(making, OfHeads):
        return {making.source: _in_their_order(ours, making.order)}
    if isinstance(making, Repeated):
        return dict.fromkeys(making.sources, ours)
    if isinstance(making, Same):
        return {making.source: ours.t().contiguous() if making.is_transposed else ours}
    if isinstance(making, Alternating):
        halves = [half if half.dim() == 1 else half.t() for half in ours.chunk(2)]
        return {making.source: torch.stack(halves, dim=-1).flatten(-2)}
    return {making.source: _rotary_rows(ours, making, to_halves=False)}


def _by_head(parts: Sequence[Tensor], num_kv_heads: int, order: HeadOrder) -> Tensor:
    """Our rows, made of those of queries, keys and values."""
    query, key, value = parts
    by_head = [part.unflatten(0, (num_kv_heads, -1)) for part in (_ordered(query, order), _ordered(key, order), value)]
    return torch.cat(by_head, dim=1).flatten(0, 1)


def _apart(ours: Tensor, num_kv_heads: int, order: HeadOrder) -> list[Tensor]:
    by_head, size = ours.unflatten(0, (num_kv_heads, -1)), order.size
    parts = by_head.split([by_head.size(1) - 2 * size, size, size], dim=1)
    query, key, value = (part.flatten(0, 1) for part in parts)
    return [_in_their_order(query, order), _in_their_order(key, order), value]


def _ordered(rows: Tensor, order: HeadOrder) -> Tensor:
    """The rows of every head in our order."""
    by_head = torch.unflatten(rows, 0, (-1, order.size))
    return by_head[:, list(order.rows)].flatten(0, 1)


def _in_their_order(rows: Tensor, order: HeadOrder) -> Tensor:
    back = sorted(range(order.size), key=lambda row: order.rows[row])
    return torch.unflatten(rows, 0, (-1, order.size))[:, back].flatten(0, 1)


def _rotary_rows(tensor: Tensor, making: InterleavedRotary, *, to_halves: bool) -> Tensor:
    by_head = tensor.unflatten(0, (making.num_heads, -1))
    still, rotary = by_head.split([making.still_size, making.rotary_size], dim=1)
    grid = (-1, 2) if to_halves else (2, -1)
    turned = rotary.unflatten(1, grid).transpose(1, 2).flatten(1, 2)
    return torch.cat([still, turned], dim=1).flatten(0, 1)
