"""One rank of each colour runs its program; who gets stuck, waits in a circle."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mai.plan.communication.rank_families import Families
from mai.plan.proof.finding import Call, Finding
from mai.plan.proof.lanes import LaneName, lane_name
from mai.plan.proof.programs import Programs
from mai.plan.proof.symmetry import Colours

_Post = tuple[int, int]
"""A counter, and how many calls stand before this one on it."""


@dataclass(frozen=True, slots=True)
class _Waits:
    """Whom the ranks of each colour meet, in counters: one for each lane of each colour that meets another colour."""

    counters: dict[tuple[int, LaneName], int]
    names: list[LaneName]
    """Each counter's lane."""
    partners: list[list[int]]
    """Counters that must have passed before a call on this one ends."""
    steps: list[list[list[_Post]]]
    """By colour: what its program posts at once, left out where it meets none but its own colour."""


def deadlock(families: Families, programs: Programs, colours: Colours) -> Finding | None:
    """The shortest circle of ranks behind the first that does not reach its end; None where all do.

    For programs whose calls match (`matching.py`): then nobody waits for a rank that has ended.
    """
    representatives = [colours.index(colour) for colour in range(max(colours) + 1)]
    waits = _waits(families, programs, colours, representatives)
    posted, at = _run(waits)
    for colour, rank in enumerate(representatives):
        if at[colour] < len(waits.steps[colour]):
            return _circle(_Stuck(families, programs, colours, waits, posted, at), rank)
    return None


def _waits(families: Families, programs: Programs, colours: Colours, representatives: Sequence[int]) -> _Waits:
    meets = {
        (colour, name): met
        for colour, rank in enumerate(representatives)
        for name in programs.lanes[programs.number_of[rank]]
        if (met := {(colours[other], lane) for other, lane in _met(families, rank, name)} - {(colour, name)})
    }
    counters = {key: number for number, key in enumerate(meets)}
    partners = [[counters[key] for key in met] for met in meets.values()]
    steps = [_steps(programs, rank, colour, counters) for colour, rank in enumerate(representatives)]
    return _Waits(counters, [name for _, name in meets], partners, steps)


def _met(families: Families, rank: int, name: LaneName) -> Iterator[tuple[int, LaneName]]:
    """The ranks whose lanes meet this one of the rank."""
    family = families[name.family]
    group, place = family.group_of(rank), family.place_of[rank]
    for other in range(len(group)) if name.peer is None else (name.peer,):
        yield group[other], name.seen_from(place)


def _steps(programs: Programs, rank: int, colour: int, counters: dict[tuple[int, LaneName], int]) -> list[list[_Post]]:
    before = dict.fromkeys(counters.values(), 0)
    number_of = {name: counters.get((colour, name)) for name in programs.lanes[programs.number_of[rank]]}
    steps = []
    for together in programs.different[programs.number_of[rank]]:
        step = []
        for operation in together:
            counter = number_of[lane_name(operation)]
            if counter is not None:
                step.append((counter, before[counter]))
                before[counter] += 1
        if step:
            steps.append(step)
    return steps


def _run(waits: _Waits) -> tuple[list[int], list[int]]:
    """How many calls each counter has seen at the end, and how many steps each colour has done."""
    posted, at = [0] * len(waits.partners), [0] * len(waits.steps)
    entered = [-1] * len(waits.steps)
    waiting: list[list[int]] = [[] for _ in posted]
    ready = deque(range(len(waits.steps)))
    while ready:
        colour = ready.popleft()
        steps = waits.steps[colour]
        while at[colour] < len(steps):
            step = steps[at[colour]]
            if entered[colour] < at[colour]:
                entered[colour] = at[colour]
                for counter, _ in step:
                    posted[counter] += 1
                    ready.extend(waiting[counter])
                    waiting[counter].clear()
            missing = _missing(step, waits.partners, posted)
            if missing is not None:
                waiting[missing].append(colour)
                break
            at[colour] += 1
    return posted, at


def _missing(step: Sequence[_Post], partners: Sequence[Sequence[int]], posted: Sequence[int]) -> int | None:
    """A counter that keeps the step from its end."""
    for counter, before in step:
        for partner in partners[counter]:
            if posted[partner] <= before:
                return partner
    return None


@dataclass(frozen=True, slots=True)
class _Stuck:
    """The ranks where the run came to rest."""

    families: Families
    programs: Programs
    colours: Colours
    waits: _Waits
    posted: Sequence[int]
    at: Sequence[int]

    def waits_for(self, rank: int) -> Iterator[tuple[int, LaneName, int]]:
        """The ranks that have not come, with this one's lane and its call's place on it."""
        colour = self.colours[rank]
        for counter, before in self.waits.steps[colour][self.at[colour]]:
            name = self.waits.names[counter]
            for other, lane in _met(self.families, rank, name):
                partner = self.waits.counters[self.colours[other], lane]
                if self.posted[partner] <= before:
                    yield other, name, before


def _circle(stuck: _Stuck, rank: int) -> Finding:
    """Follow the first that each waits for until one comes again; from it the shortest way back to it. It is told from
    the rank on whose program the fewest run."""
    seen: set[int] = set()
    while rank not in seen:
        seen.add(rank)
        rank = next(stuck.waits_for(rank))[0]
    came_from: dict[int, int] = {}
    reached = deque([rank])
    while rank not in came_from:
        one = reached.popleft()
        for other, _, _ in stuck.waits_for(one):
            if other not in came_from:
                came_from[other] = one
                reached.append(other)
    calls, after, one = deque[Call](), rank, came_from[rank]
    calls.append(_wait(stuck, one, after))
    while one != rank:
        after, one = one, came_from[one]
        calls.appendleft(_wait(stuck, one, after))
    calls.rotate(-min(range(len(calls)), key=lambda number: stuck.programs.num_ranks_like(calls[number].rank)))
    first = calls[0].operation
    assert first is not None
    return Finding("deadlock", first.group, stuck.families[first.group].group_of(calls[0].rank), tuple(calls))


def _wait(stuck: _Stuck, rank: int, other: int) -> Call:
    """The call in which the rank waits for the other."""
    name, place = next((name, place) for one, name, place in stuck.waits_for(rank) if one == other)
    return stuck.programs.call(rank, name, place)
