"""One rank of each colour tells what all ranks do: the verdict is that of running every rank."""

import random
from collections import defaultdict

import pytest

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Operation, Program, Together
from mai.plan.communication.rank_families import Families, families
from mai.plan.proof.programs import Programs
from mai.plan.proof.proof import prove
from mai.plan.proof.symmetry import colours
from tests.unit.plan.proof.hand_made import Step, planted, programs

LAYOUTS = [
    Layout(tensor=2, pipeline=2, data=2),
    Layout(tensor=1, pipeline=4, data=2),
    Layout(tensor=2, pipeline=3, data=2, context=2),
    Layout(tensor=2, pipeline=2, data=4, expert=4),
    Layout(tensor=2, pipeline=1, data=4, expert=2, expert_tensor=2, sharding_copies=2),
]


def all_reach_their_end(families: Families, programs: list[Program]) -> bool:
    """Run every rank, call by call: posted calls queue up at their group, and calls of one kind and size meet."""
    queues: defaultdict[tuple[object, ...], list[Operation]] = defaultdict(list)
    at, left = [0] * len(programs), [False] * len(programs)
    posts: list[list[tuple[list[tuple[object, ...]], int]]] = [[] for _ in programs]
    moved = True
    while moved:
        moved = False
        for rank, program in enumerate(programs):
            if at[rank] == len(program):
                continue
            if not left[rank]:
                posts[rank] = [_post(queues, families, rank, operation) for operation in program[at[rank]]]
                left[rank] = moved = True
            if all(len(queues[key]) > place for keys, place in posts[rank] for key in keys):
                for keys, place in posts[rank]:
                    if len({_compared(queues[key][place]) for key in keys}) > 1:
                        return False
                at[rank], left[rank], moved = at[rank] + 1, False, True
    unmet = any(len(queues[key]) != len(queues[other]) for key in list(queues) for other in _others(families, key))
    return not unmet and all(place == len(program) for place, program in zip(at, programs, strict=True))


def _post(
    queues: defaultdict[tuple[object, ...], list[Operation]], families: Families, rank: int, operation: Operation
) -> tuple[list[tuple[object, ...]], int]:
    """Which queues must be as long as this rank's own for the call to end."""
    group = families[operation.group].group_of(rank)
    if operation.kind in ("send", "receive"):
        assert operation.peer is not None
        pair = (rank, group[operation.peer])
        own = (operation.group, operation.kind, *(pair if operation.kind == "send" else pair[::-1]))
    else:
        own = (operation.group, "all", rank)
    queues[own].append(operation)
    return [own, *_others(families, own)], len(queues[own]) - 1


def _others(families: Families, key: tuple[object, ...]) -> list[tuple[object, ...]]:
    family, direction, *ranks = key
    if direction == "all":
        (rank,) = ranks
        return [(family, "all", other) for other in families[str(family)].group_of(int(str(rank)))]
    return [(family, "receive" if direction == "send" else "send", *ranks)]


def _compared(operation: Operation) -> tuple[object, ...]:
    """A send and its receive differ in kind and peer only."""
    if operation.kind in ("send", "receive"):
        return operation.elements, operation.dtype, operation.what
    return operation.kind, operation.elements, operation.dtype, operation.peer, operation.what


def mutated(dice: random.Random, step: Step) -> None:
    """One of: left out, twice, swapped with another, another size, another group, torn from what is posted with it."""
    number = dice.randrange(len(step))
    one = step[number][0]
    other = dice.randrange(len(step))
    choice = dice.randrange(5)
    if choice == 0:
        del step[number]
    elif choice == 1:
        step.insert(other, [one])
    elif choice == 2:
        step[number], step[other] = step[other], step[number]
    elif choice == 3:
        step[number : number + 1] = [[operation] for operation in step[number]]
    else:
        elements = one.elements + dice.randrange(2)
        step[number][0] = Operation(one.kind, one.group, elements, one.dtype, one.peer, one.what)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_plant_at_one_rank_or_a_stage_is_judged_as_by_running_every_rank(layout: Layout) -> None:
    dice = random.Random(layout.world_size)
    groups, verdicts = families(layout), []
    for _ in range(100):
        faulty = programs(layout, num_micro_batches=3)
        for _ in range(dice.choice((1, 1, 2))):
            rank = dice.randrange(layout.world_size)
            changed = planted(faulty, rank, lambda step: mutated(dice, step))
            whole_stage = dice.random() < 0.5
            before, after = faulty[rank], changed[rank]
            faulty = [after if whole_stage and program == before else program for program in changed]
        verdicts.append(all_reach_their_end(groups, faulty))
        assert prove(groups, faulty.__getitem__).holds == verdicts[-1]
    assert 5 < sum(verdicts) < 95


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_orders_drawn_by_lot_are_judged_as_by_running_every_rank(layout: Layout) -> None:
    """Every call matches, and each rank comes to its groups in an order of its own, or of its kind."""
    dice = random.Random(layout.world_size)
    groups, verdicts = families(layout), []
    names = sorted(set(groups) - {"embedding"})
    for _ in range(200):
        calls = [(Operation("all_reduce", name, 1, "fp32"),) for name in dice.sample(names, 3)]
        calls *= dice.choice((1, 2))
        orders = [calls, *(neighbours_swapped(dice, calls) for _ in range(2))]
        axis = dice.choice(("tensor", "pipeline", "data", "by lot"))
        drawn = [
            tuple(orders[dice.randrange(3) if axis == "by lot" else getattr(layout.coordinates(rank), axis) % 3])
            for rank in range(layout.world_size)
        ]
        verdicts.append(all_reach_their_end(groups, drawn))
        found = prove(groups, drawn.__getitem__).findings
        assert (not found) == verdicts[-1]
        assert all(finding.fault == "deadlock" for finding in found)
    assert 10 < sum(verdicts) < 190


def neighbours_swapped(dice: random.Random, calls: list[Together]) -> list[Together]:
    swapped = list(calls)
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(calls) - 1)
        swapped[at : at + 2] = swapped[at : at + 2][::-1]
    return swapped


@pytest.mark.parametrize("pipeline", [3, 4])
def test_sends_to_places_drawn_by_lot_are_judged_as_by_running_every_rank(pipeline: int) -> None:
    """Who sends to whom is right; when, is not at every rank."""
    dice = random.Random(pipeline)
    layout = Layout(tensor=1, pipeline=pipeline, data=2)
    groups, verdicts = families(layout), []
    for _ in range(200):
        together: Together = (Operation("all_reduce", "pipeline", 1, "fp32"),)
        events = [dice.sample(range(pipeline), 2) for _ in range(3)]
        events.insert(dice.randrange(4), list(range(pipeline)))
        drawn: list[Program] = []
        for rank in range(layout.world_size):
            place = layout.coordinates(rank).pipeline
            calls = [together if len(event) > 2 else (_end(event, place),) for event in events if place in event]
            swapped = len(calls) > 1 and dice.random() < 0.3
            drawn.append(tuple(neighbours_swapped(dice, calls) if swapped else calls))
        verdicts.append(all_reach_their_end(groups, drawn))
        assert prove(groups, drawn.__getitem__).holds == verdicts[-1]
    assert 5 < sum(verdicts) < 195


def _end(pair: list[int], place: int) -> Operation:
    source, destination = pair
    if place == source:
        return Operation("send", "pipeline", 1, "fp32", destination)
    return Operation("receive", "pipeline", 1, "fp32", source)


def test_two_senders_of_one_program_are_told_apart_by_their_place() -> None:
    """The last stage takes from the first, sums with all, then takes from the middle, which waits for that to sum."""
    layout = Layout(tensor=1, pipeline=3, data=1)
    summed = (Operation("all_reduce", "pipeline", 1, "fp32"),)
    sender: Program = ((Operation("send", "pipeline", 1, "fp32", 2),), summed)
    first, middle = ((Operation("receive", "pipeline", 1, "fp32", place),) for place in (0, 1))
    (finding,) = prove(families(layout), [sender, sender, (first, summed, middle)].__getitem__).findings
    assert (finding.fault, [call.rank for call in finding.calls]) == ("deadlock", [2, 1])
    assert prove(families(layout), [sender, sender, (first, middle, summed)].__getitem__).holds


def test_ranks_of_one_colour_see_the_same_colours() -> None:
    layout = LAYOUTS[2]
    groups = families(layout)
    faulty = planted(programs(layout), 5, lambda step: step.reverse())
    all_programs = Programs.of(layout.world_size, faulty.__getitem__)
    found = colours(groups, all_programs)
    seen: defaultdict[int, set[object]] = defaultdict(set)
    for rank, colour in enumerate(found):
        seen[colour].add(
            (
                all_programs.number_of[rank],
                groups["pipeline"].place_of[rank],
                tuple(found[other] for other in groups["pipeline"].group_of(rank)),
                *(frozenset(found[other] for other in groups[name].group_of(rank)) for name in ("tensor", "model")),
                frozenset(found[other] for other in groups["data_with_context"].group_of(rank)),
            )
        )
    assert all(len(views) == 1 for views in seen.values())
    assert 3 < len(seen) < layout.world_size
