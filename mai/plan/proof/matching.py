"""Whether those who meet call the same in the same order: told from their programs alone, without running them.

The n-th call of each rank on a group meets the n-th of all others; the n-th send of a rank to another meets that one's
n-th receive from it. So the calls match exactly where these sequences, the lanes, are equal. What waits for what is not
looked at here: `execution.py` is for that.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mai.parallel.layout import Group
from mai.plan.communication.rank_families import Families
from mai.plan.proof.finding import Fault, Finding
from mai.plan.proof.lanes import NOTHING, Content, LaneName
from mai.plan.proof.programs import Programs

_FIELDS: dict[str, Fault] = {"kind": "kind", "elements": "size", "dtype": "dtype", "root": "root", "what": "name"}


@dataclass(frozen=True, slots=True)
class _Difference:
    """Where a program's lane leaves that of those it should meet."""

    finding: Finding
    program: int
    """The blamed one."""
    content: Content
    """What the blamed rank calls; what the other calls, where the blamed one's call is missing."""

    @property
    def number(self) -> float:
        """When the blamed rank comes to it."""
        number = self.finding.calls[0].number
        return float("inf") if number is None else number


def mismatches(families: Families, programs: Programs) -> tuple[Finding, ...]:
    """One finding for each program that is to blame: the one that fewest ranks run, as most of them are right."""
    by_program: defaultdict[int, list[_Difference]] = defaultdict(list)
    for difference in _differences(families, programs):
        by_program[difference.program].append(difference)
    found = (_first(sorted(differences, key=lambda one: one.number)) for differences in by_program.values())
    return tuple(sorted(found, key=lambda finding: (finding.calls[0].rank, finding.calls[0].number or 0)))


def _first(differences: Sequence[_Difference]) -> Finding:
    """The first of a program's; where a call went astray, with those who wait for it."""
    first = differences[0]
    for other in differences[1:]:
        extra, missing = sorted((first.finding, other.finding), key=lambda finding: finding.fault)
        if (extra.fault, missing.fault) == ("extra", "missing") and first.content == other.content:
            calls = (extra.calls[0], *missing.calls[1:])
            return replace(extra, fault=_astray(extra, missing), calls=calls, further=len(differences) - 2)
    return replace(first.finding, further=len(differences) - 1)


def _astray(extra: Finding, missing: Finding) -> Fault:
    """Same rank on the other side: a send where there should be a receive, or the other way round."""
    if extra.family != missing.family:
        return "group"
    return "kind" if [call.rank for call in extra.calls] == [call.rank for call in missing.calls] else "peer"


def _differences(families: Families, programs: Programs) -> Iterator[_Difference]:
    for name in programs.families:
        yield from _outsiders(families, programs, name)
        # Groups whose ranks run the same programs are equal: the first stands for all.
        alike: defaultdict[tuple[int, ...], list[Group]] = defaultdict(list)
        for group in families[name].groups:
            alike[tuple(map(programs.number_of.__getitem__, group))].append(group)
        for groups in alike.values():
            found = [*_of_group(programs, name, groups[0])]
            if name in programs.families_of_pairs:
                found += _of_pairs(programs, name, groups[0])
            for one in found:
                yield replace(one, finding=replace(one.finding, groups=len(groups)))


def _outsiders(families: Families, programs: Programs, family: str) -> Iterator[_Difference]:
    """Ranks that call a family of which they are in no group; one for each program."""
    told: set[int] = set()
    for rank, program in enumerate(programs.number_of):
        if program in told or rank in families[family].number_of:
            continue
        told.add(program)
        for name, lane in programs.lanes[program].items():
            if name.family == family:
                finding = Finding("group", family, (), (programs.call(rank, name, 0),))
                yield _Difference(finding, program, lane.contents[0])


def _of_group(programs: Programs, family: str, group: Group) -> Iterator[_Difference]:
    """Those whose calls with the whole group differ from most others'."""
    name = LaneName(family, "all")
    first_with: dict[int, int] = {}
    for rank in group:
        first_with.setdefault(programs.number_of[rank], rank)
    if len(first_with) == 1:
        return
    members = Counter(map(programs.number_of.__getitem__, group))
    right = max(first_with.values(), key=lambda rank: _votes(programs, rank, name, members))
    for rank in first_with.values():
        if programs.lane(rank, name).contents != programs.lane(right, name).contents:
            yield _difference(programs, group, (rank, name), (right, name))


def _votes(programs: Programs, rank: int, name: LaneName, members: Counter[int]) -> tuple[int, int]:
    """How many of the group call what this rank calls, and how many ranks at all run the programs of those."""
    contents = programs.lane(rank, name).contents
    same = [number for number in members if programs.lanes[number].get(name, NOTHING).contents == contents]
    return sum(members[number] for number in same), sum(programs.num_ranks_with[number] for number in same)


def _of_pairs(programs: Programs, family: str, group: Group) -> Iterator[_Difference]:
    """Sends and receives that do not answer each other; of two ranks with programs as rare, the sender is blamed."""
    seen: set[frozenset[tuple[int, LaneName]]] = set()
    for place, rank in enumerate(group):
        for name, lane in programs.lanes[programs.number_of[rank]].items():
            if name.family != family or name.direction == "all":
                continue
            if name.peer is None or not 0 <= name.peer < len(group):
                finding = Finding("extra", family, group, (programs.call(rank, name, 0),))
                yield _Difference(finding, programs.number_of[rank], lane.contents[0])
                continue
            ends = [(rank, name), (group[name.peer], name.seen_from(place))]
            if frozenset(ends) in seen or lane.contents == programs.lane(*ends[1]).contents:
                continue
            seen.add(frozenset(ends))
            ends.sort(key=lambda end: (programs.num_ranks_like(end[0]), end[1].direction != "send"))
            yield _difference(programs, group, *ends)


def _difference(
    programs: Programs, group: Group, blamed: tuple[int, LaneName], other: tuple[int, LaneName]
) -> _Difference:
    mine, theirs = programs.lane(*blamed).contents, programs.lane(*other).contents
    same = range(min(len(mine), len(theirs)))
    at = next((place for place in same if mine[place] != theirs[place]), len(same))
    calls = programs.call(*blamed, at), programs.call(*other, at)
    finding = Finding(_fault(mine[at:], theirs[at:]), blamed[1].family, group, calls)
    content = theirs[at] if finding.fault == "missing" else (mine[at:] or theirs[at:])[0]
    return _Difference(finding, programs.number_of[blamed[0]], content)


def _fault(mine: Sequence[Content], theirs: Sequence[Content]) -> Fault:
    """What makes these, from their first difference on, other than they should be."""
    if Counter(mine) == Counter(theirs):
        return "order"
    if not mine or mine == theirs[1:]:
        return "missing"
    if not theirs or mine[1:] == theirs:
        return "extra"
    first, right = mine[0], theirs[0]
    return next(fault for field, fault in _FIELDS.items() if getattr(first, field) != getattr(right, field))
