"""Which ranks go through a step alike: the coarsest colouring in which ranks of one colour see the same colours."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from mai.plan.communication.rank_families import Families, Family
from mai.plan.proof.programs import Programs

Colours = Sequence[int]
"""The colour of each rank, counted from 0 in the order of the first rank that has it."""

_Value = TypeVar("_Value", bound=Hashable)


def colours(families: Families, programs: Programs) -> Colours:
    """An equitable partition, by refinement: colours are split until each says which colours its ranks' groups hold.

    Ranks of one colour run one program and see the same set of colours in their groups. In a family in which ranks send
    to a place, they stand at the same place too; so they see the same colour at each place.
    """
    colour = _numbered(programs.number_of)
    used = [(families[name], name in programs.families_of_pairs) for name in programs.families]
    while True:
        views = [_views(family, colour, by_place=by_place) for family, by_place in used]
        finer = _numbered(zip(colour, *views, strict=True))
        if max(finer) == max(colour):
            return colour
        colour = finer


def _views(family: Family, colour: Colours, *, by_place: bool) -> Iterable[Hashable]:
    """What each rank sees of its group; None where it is in none."""
    seen = _numbered(frozenset(map(colour.__getitem__, group)) for group in family.groups)
    for rank in range(len(colour)):
        number = family.number_of.get(rank)
        if number is None:
            yield None
        else:
            yield seen[number], family.place_of[rank] if by_place else None


def _numbered(values: Iterable[_Value]) -> list[int]:
    """Equal values get equal numbers, from 0 as they first come."""
    numbers: dict[_Value, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]
