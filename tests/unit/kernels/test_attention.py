"""The attention core against the formula, written out query by query."""

import itertools

import pytest
import torch
from torch import Tensor

from mai.kernels import attention

KEYS, SEQUENCES, HEADS, GROUPS, SIZE = 9, 2, 4, 2, 8


STARTS = torch.tensor([[0, 0, 0, 3, 3, 3, 3, 3, 8], [0, 0, 0, 0, 0, 5, 6, 6, 6]])
"""Of two sequences: three segments each, one of a single token."""


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int,
    sinks: Tensor | None,
    scale: float,
    starts: Tensor | None,
) -> Tensor:
    """Softmax over the logits of what a query sees, and its head's sink; then the values."""
    out = torch.zeros(*query.shape[:3], value.size(3), dtype=torch.float64)
    first = key.size(0) - query.size(0)
    for place, sequence, head in itertools.product(range(query.size(0)), range(SEQUENCES), range(HEADS)):
        last = first + place
        begins = 0 if starts is None else int(starts[sequence, last])
        seen = range(max(begins, last - window + 1), last + 1)
        group = head // (HEADS // GROUPS)
        logits = torch.stack([(query[place, sequence, head] * key[at, sequence, group]).sum() * scale for at in seen])
        if sinks is not None:
            logits = torch.cat([logits, sinks[head : head + 1]])
        shares = logits.softmax(0)
        out[place, sequence, head] = sum(
            share * value[at, sequence, group] for share, at in zip(shares, seen, strict=False)
        )
    return out


@pytest.mark.parametrize("num_queries", [KEYS, 4, 1])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("starts", [None, STARTS], ids=["one segment", "segments"])
def test_it_is_the_formula(
    num_queries: int,
    window: int | None,
    has_sinks: bool,  # noqa: FBT001
    scale: float | None,
    starts: Tensor | None,
) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    query = drawn(num_queries, SEQUENCES, HEADS, SIZE)
    key, value = drawn(KEYS, SEQUENCES, GROUPS, SIZE), drawn(KEYS, SEQUENCES, GROUPS, SIZE)
    sinks = drawn(HEADS) if has_sinks else None
    starts_BQ = None if starts is None else starts[:, KEYS - num_queries :]
    ours = attention.reference(query, key, value, window=window, sinks_H=sinks, scale=scale, starts_BQ=starts_BQ)
    theirs = plain(query, key, value, window=window or KEYS, sinks=sinks, scale=scale or SIZE**-0.5, starts=starts)
    torch.testing.assert_close(ours, theirs)
    inputs = [query, key, value, *([] if sinks is None else [sinks])]
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for our, their in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(our, their)
