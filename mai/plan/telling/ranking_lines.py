"""What `mai plan --search` tells: the best layouts, why each loses to the one before, and where the recipe stands."""

from collections.abc import Callable, Iterator, Sequence

from mai.plan.quantities import counted, gib, seconds
from mai.plan.report.ranking import OwnLayout, RankedLayout, RankedLayouts
from mai.plan.search.reasons import Difference
from mai.plan.telling.item_words import WORDS
from mai.plan.telling.typesetting import columns, wrapped
from mai.recipe.breach import shown


def lines(found: RankedLayouts) -> Iterator[str]:
    """A table of the best, then in words why each loses to the one before it."""
    best, own = found.best, found.own
    yield (
        f"{found.recipe} on {found.cluster}: the best layouts on at most {counted(found.gpus, 'GPU')}, for "
        f"{counted(found.batch_sequences, 'sequence')} a step; {found.compared:,} compared"
    )
    yield ""
    if best or own:
        yield from _table(best, own)
        for number, planned in enumerate(best[1:], start=2):
            yield from wrapped(f"{number} behind {number - 1}: {_loss(planned)}")
        yield ""
    for sentence in _about_the_others(found):
        yield from wrapped(sentence)
    if best:
        yield "the best one, as words behind the recipe's name:"
        yield f"    {' '.join(best[0].overrides) or '(the recipe itself)'}"


def _table(best: Sequence[RankedLayout], own: OwnLayout | None) -> Iterator[str]:
    """A row a layout; a column that says nothing of any of them is left out."""
    places = [str(number) for number in range(1, len(best) + 1)]
    planned, places = (best, places) if own is None else ([*best, own.planned], [*places, "yours"])
    told = {head: [cell(one) for one in planned] for head, cell in _COLUMNS.items()}
    shown_columns = {head: cells for head, cells in told.items() if any(cells)}
    yield from columns(("", *shown_columns), *zip(places, *shown_columns.values(), strict=True))


def _degree(axis: str) -> Callable[[RankedLayout], str]:
    return lambda planned: str(degree) if (degree := planned.layout.degrees.get(axis, 1)) > 1 else ""


def _sharding(planned: RankedLayout) -> str:
    copies = planned.layout.sharding_copies
    return ", ".join(["full"] * (planned.sharding == "full") + [f"{copies} copies"] * (copies > 1))


_COLUMNS: dict[str, Callable[[RankedLayout], str]] = {
    "tensor": _degree("tensor"),
    "context": _degree("context"),
    "pipeline": _degree("pipeline"),
    "virtual": _degree("virtual_stages"),
    "data": _degree("data"),
    "expert": _degree("expert"),
    "expert tensor": _degree("expert_tensor"),
    "micro-batch": lambda planned: str(sequences) if (sequences := planned.micro_batch_sequences) > 1 else "",
    "sharding": _sharding,
    "recomputed": lambda planned: ", ".join(planned.recompute).replace("_", " "),
    "step": lambda planned: seconds(planned.step_seconds),
    "tokens/s": lambda planned: f"{planned.tokens_per_second:,.0f}",
    "GPUs": lambda planned: f"{planned.gpus:,}",
    "GiB": lambda planned: gib(planned.needed_bytes),
}
"""What each column of the table says of a layout, by the column's head."""


def _layout(planned: RankedLayout) -> str:
    """`tensor 8 x pipeline 16 x data 117, 2 sequences at a time, layer recomputed`."""
    axes = {axis: degree for axis, degree in planned.layout.degrees.items() if degree > 1}
    text = " x ".join(f"{axis.replace('_', ' ')} {degree}" for axis, degree in axes.items()) or "one GPU"
    if planned.micro_batch_sequences > 1:
        text += f", {planned.micro_batch_sequences} sequences at a time"
    if planned.sharding == "full":
        text += ", full sharding"
    if planned.recompute:
        text += f", {shown(tuple(planned.recompute)).replace('_', ' ')} recomputed"
    return text


def _loss(planned: RankedLayout) -> str:
    """`+0.41 s: tensor +0.52 s (each matrix on 8 ranks instead of 4), bubble -0.12 s (...)`."""
    loses = planned.loses
    whole = sum(one.seconds for one in loses)
    told = [
        f"{WORDS[one.item]} {one.seconds:+.3f} s" + (f" ({one.cause})" if one.cause else "") for one in _largest(loses)
    ]
    return f"{whole:+.3f} s: {'; '.join(told)}" if told else "as fast"


def _about_the_others(found: RankedLayouts) -> Iterator[str]:
    best, own, near_miss = found.best, found.own, found.near_miss
    if found.usable_memory_gib is None:
        most = f"{found.sold_memory_gb:g} GiB that its GPU has"
        yield f"how much of the {most} a process gets is unknown: what needs almost all of it may not fit"
    if not best and near_miss is not None:
        yield f"no layout fits; the nearest is {_layout(near_miss)}, which {_lack(near_miss)}; bring more GPUs"
    elif near_miss is not None:
        faster = best[0].step_seconds / near_miss.step_seconds - 1
        yield f"does not quite fit: {_layout(near_miss)}, which {_lack(near_miss)}; would be {faster:.1%} faster"
    if own is None:
        yield f"the recipe's own layout does not share out its batch over {counted(found.gpus, 'GPU')}"
    elif not own.planned.fits:
        yield f"the recipe's own layout does not fit: {_lack(own.planned)}"
    elif best:
        place = f"place {own.place}" if own.place else f"below place {len(best)}"
        yield f"the recipe's own layout, {place}, behind 1: {_loss(own.planned)}"


def _lack(planned: RankedLayout) -> str:
    return (
        f"needs {gib(planned.needed_bytes)} of {gib(planned.most_bytes)} GiB on stage "
        f"{planned.largest_stage}, most of it {planned.largest_item.replace('_', ' ')}"
    )


def _largest(found: Sequence[Difference], *, number: int = 3, share: float = 0.2) -> list[Difference]:
    """The differences that tell the story: at most so many, and none far below the largest."""
    return [one for one in found[:number] if abs(one.seconds) >= share * abs(found[0].seconds)]
