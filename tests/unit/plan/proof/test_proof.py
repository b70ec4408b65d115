"""A step whose calls match is proved; each planted fault is found once, at the rank that has it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import Family, families
from mai.plan.proof.proof import prove
from tests.unit.plan.proof.hand_made import (
    Step,
    changing,
    leaving_out,
    planted,
    programs,
    swapping,
    where,
)

LAYOUT = Layout(tensor=2, pipeline=4, data=2)
RANK = LAYOUT.rank_at(tensor=1, data=1, pipeline=1)
"""Where faults are planted: rank 7."""
BEFORE, BEHIND = RANK - 4, RANK + 4
"""Its neighbours in the pipeline."""


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batches", [1, 2, 4, 9])
def test_a_healthy_step_is_proved(stages: int, micro_batches: int) -> None:
    layout = Layout(tensor=2, pipeline=stages, data=2)
    proof = prove(families(layout), programs(layout, micro_batches).__getitem__)
    assert proof.holds
    assert (proof.num_ranks, proof.num_programs, proof.num_colours) == (4 * stages, stages, stages)


FIRST_REDUCE = {"group": "tensor", "what": "layer 1, forward of micro-batch 0"}
SEND = {"kind": "send", "what": "forward of micro-batch 2, from stage 1"}
RECEIVE = {"kind": "receive", "what": "forward of micro-batch 2, from stage 0"}

FAULTS: dict[str, tuple[Callable[[Step], None], str, str, list[int]]] = {
    "size": (changing(FIRST_REDUCE, elements=255), "size", "tensor", [RANK, RANK - 1]),
    "dtype": (changing(FIRST_REDUCE, dtype="fp32"), "dtype", "tensor", [RANK, RANK - 1]),
    "kind": (changing(FIRST_REDUCE, kind="all_gather"), "kind", "tensor", [RANK, RANK - 1]),
    "name": (changing(FIRST_REDUCE, what="layer 2"), "name", "tensor", [RANK, RANK - 1]),
    "root": (changing(FIRST_REDUCE, peer=1), "root", "tensor", [RANK, RANK - 1]),
    "order on one group": (
        swapping(FIRST_REDUCE, {"group": "tensor", "what": "layer 0, forward of micro-batch 1"}),
        "order",
        "tensor",
        [RANK, RANK - 1],
    ),
    "missing collective": (leaving_out(**FIRST_REDUCE), "missing", "tensor", [RANK, RANK - 1]),
    "missing from a small group": (leaving_out(group="model"), "missing", "model", [RANK, 2]),
    "extra collective": (
        lambda step: step.insert(0, [Operation("all_reduce", "tensor", 1, "fp32", what="a stray")]),
        "extra",
        "tensor",
        [RANK, RANK - 1],
    ),
    "missing receive": (leaving_out(**RECEIVE), "missing", "pipeline", [RANK, BEFORE]),
    "missing send": (leaving_out(**SEND), "missing", "pipeline", [RANK, BEHIND]),
    "size of a send": (changing(SEND, elements=128), "size", "pipeline", [RANK, BEHIND]),
    "order of two sends": (
        swapping(SEND, {"kind": "send", "what": "forward of micro-batch 1, from stage 1"}),
        "order",
        "pipeline",
        [RANK, BEHIND],
    ),
    "wrong peer of a send": (changing(SEND, peer=3), "peer", "pipeline", [RANK, BEHIND]),
    "wrong peer of a receive": (changing(RECEIVE, peer=3), "peer", "pipeline", [RANK, BEFORE]),
    "peer that is not there": (changing(SEND, peer=4), "peer", "pipeline", [RANK, BEHIND]),
    "no peer": (changing(SEND, peer=None), "peer", "pipeline", [RANK, BEHIND]),
    "a send instead of a receive": (changing(RECEIVE, kind="send"), "kind", "pipeline", [RANK, BEFORE]),
    "wrong group": (changing(FIRST_REDUCE, group="data"), "group", "data", [RANK, RANK - 1]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_once_and_named(name: str) -> None:
    change, fault, family, ranks = FAULTS[name]
    faulty = planted(programs(LAYOUT), RANK, change)
    (finding,) = prove(families(LAYOUT), faulty.__getitem__).findings
    assert (finding.fault, finding.family, [call.rank for call in finding.calls]) == (fault, family, ranks)
    assert RANK in finding.group
    assert finding.groups == 1
    assert finding.further == 0


def test_a_finding_says_what_the_rank_does_and_what_the_others_do_there() -> None:
    healthy = programs(LAYOUT)
    faulty = planted(healthy, RANK, changing(FIRST_REDUCE, elements=255))
    (finding,) = prove(families(LAYOUT), faulty.__getitem__).findings
    flat = [operation for together in healthy[RANK] for operation in together]
    number = next(at for at, one in enumerate(flat, start=1) if one.what == FIRST_REDUCE["what"])
    mine, theirs = finding.calls
    assert (mine.number, theirs.number) == (number, number)
    assert theirs.operation == flat[number - 1]
    assert mine.operation == replace(flat[number - 1], elements=255)


def test_two_faults_of_two_ranks_are_two_findings() -> None:
    other = LAYOUT.rank_at(tensor=0, data=0, pipeline=3)
    faulty = planted(programs(LAYOUT), RANK, changing(FIRST_REDUCE, elements=255))
    faulty = planted(faulty, other, leaving_out(group="embedding"))
    found = prove(families(LAYOUT), faulty.__getitem__).findings
    assert [(one.fault, one.calls[0].rank) for one in found] == [("size", RANK), ("missing", other)]


@pytest.mark.parametrize("rank", [RANK, RANK - 1])
def test_of_two_that_differ_the_one_that_others_run_is_right(rank: int) -> None:
    faulty = planted(programs(LAYOUT), rank, changing(FIRST_REDUCE, elements=255))
    (finding,) = prove(families(LAYOUT), faulty.__getitem__).findings
    assert finding.calls[0].rank == rank


def test_most_of_a_group_are_right_whatever_other_groups_call() -> None:
    layout = Layout(tensor=4, pipeline=1, data=3)
    few, many = (((Operation("all_reduce", "tensor", size, "fp32"),),) for size in (1, 2))
    (finding,) = prove(families(layout), lambda rank: few if rank in (0, 1, 3) else many).findings
    assert [call.rank for call in finding.calls] == [2, 0]


def test_a_fault_of_a_whole_stage_is_one_finding() -> None:
    """Eight pipelines, and in each the same goes wrong."""
    layout = Layout(tensor=2, pipeline=4, data=4)
    healthy = programs(layout)
    (wrong,) = {planted(healthy, rank, changing(SEND, elements=128))[rank] for rank in range(8, 16)}
    faulty = [wrong if layout.coordinates(rank).pipeline == 1 else healthy[rank] for rank in range(layout.world_size)]
    (finding,) = prove(families(layout), faulty.__getitem__).findings
    assert (finding.fault, finding.groups, finding.calls[0].rank) == ("size", 8, 8)


def test_a_rank_left_out_of_its_group_is_named() -> None:
    groups = dict(families(LAYOUT))
    groups["tensor"] = Family(tuple(tuple(rank for rank in group if rank != RANK) for group in groups["tensor"].groups))
    (finding,) = prove(groups, programs(LAYOUT).__getitem__).findings
    assert (finding.fault, finding.family, finding.group) == ("group", "tensor", ())
    assert finding.calls[0].rank == RANK


def test_a_middle_stage_may_not_call_the_embedding_group() -> None:
    stray = Operation("all_reduce", "embedding", 512, "fp32", what="a stray")
    faulty = planted(programs(LAYOUT), RANK, lambda step: step.append([stray]))
    (finding,) = prove(families(LAYOUT), faulty.__getitem__).findings
    assert (finding.fault, finding.family, finding.calls[0].rank) == ("group", "embedding", RANK)
    assert finding.calls[0].operation == stray


CROSSED = [
    (Operation("all_reduce", "model", 1, "fp32", what="norm"),),
    (Operation("all_reduce", "pipeline", 1, "fp32", what="loss"),),
]


def test_a_crossed_order_over_two_groups_is_a_circle() -> None:
    """Two ranks of a pipeline are in both groups and come to them in opposite order."""
    layout = Layout(tensor=1, pipeline=2, data=3)
    of_stage: list[Program] = [tuple(CROSSED), tuple(CROSSED[::-1])]
    proof = prove(families(layout), lambda rank: of_stage[layout.coordinates(rank).pipeline])
    (finding,) = proof.findings
    assert finding.fault == "deadlock"
    first, second = finding.calls
    assert {first.rank, second.rank} == {0, 3}
    assert first.operation != second.operation
    assert (first.number, second.number) == (1, 1)


def test_a_circle_closes_over_ranks_of_few_colours() -> None:
    """Tensor ranks 0 sum over the copies first, tensor ranks 1 over the tensor group. Rank 0 has met its copies and
    waits for rank 1; nobody waits in a circle. With the stages in it as well, one does."""
    layout = Layout(tensor=2, pipeline=2, data=2)
    tensor, data, pipeline = (Operation("all_reduce", name, 1, "fp32") for name in ("tensor", "data", "pipeline"))

    def crossed(rank: int) -> Program:
        at = layout.coordinates(rank)
        return ((data,), (tensor,)) if at.tensor == 0 else ((tensor,), (data,))

    assert prove(families(layout), crossed).holds

    def circle(rank: int) -> Program:
        at = layout.coordinates(rank)
        turned = at.tensor != at.pipeline
        return ((tensor,), (pipeline,)) if turned else ((pipeline,), (tensor,))

    (finding,) = prove(families(layout), circle).findings
    ranks = [call.rank for call in finding.calls]
    assert finding.fault == "deadlock"
    assert len(ranks) == len(set(ranks)) == 4
    for call, after in zip(finding.calls, [*ranks[1:], ranks[0]], strict=True):
        assert call.operation is not None
        assert after in families(layout)[call.operation.group].group_of(call.rank)


def test_a_circle_is_told_from_the_rank_whose_order_is_its_own() -> None:
    tensor, world = (Operation("all_reduce", name, 1, "fp32") for name in ("tensor", "world"))
    turned: dict[bool, Program] = {False: ((tensor,), (world,)), True: ((world,), (tensor,))}
    (finding,) = prove(families(LAYOUT), lambda rank: turned[rank == RANK]).findings
    assert (finding.fault, finding.family) == ("deadlock", "world")
    assert [call.rank for call in finding.calls] == [RANK, RANK - 1]


def test_two_neighbours_that_both_send_first_wait_for_each_other() -> None:
    healthy = programs(LAYOUT)

    def apart(rank: int) -> Program:
        return tuple((operation,) for together in healthy[rank] for operation in together)

    (finding,) = prove(families(LAYOUT), apart).findings
    assert finding.fault == "deadlock"
    assert [call.operation.kind for call in finding.calls if call.operation] == ["send", "send"]


def test_one_wrong_rank_of_fifteen_thousand_costs_few_colours() -> None:
    layout = Layout(tensor=8, pipeline=25, data=75)
    assert layout.world_size == 15_000
    healthy = programs(layout)
    groups = families(layout)
    proof = prove(groups, healthy.__getitem__)
    assert (proof.holds, proof.num_programs, proof.num_colours) == (True, 25, 25)
    rank = layout.rank_at(tensor=3, data=40, pipeline=12)
    # Its own program, and yet no fault: the gradients' sum and the norm stand in two groups that share one rank.
    turned = swapping({"group": "data_with_context", "what": "gradients"}, {"group": "model"})
    proof = prove(groups, planted(healthy, rank, turned).__getitem__)
    assert (proof.holds, proof.num_programs) == (True, 26)
    assert proof.num_colours < 26 * 5
    faulty = planted(healthy, rank, changing({"kind": "send"}, elements=128))
    (finding,) = prove(groups, faulty.__getitem__).findings
    assert (finding.fault, finding.calls[0].rank) == ("size", rank)


def test_operations_are_counted() -> None:
    proof = prove(families(LAYOUT), programs(LAYOUT, 3).__getitem__)
    assert proof.operations[("all_reduce", "model")] == LAYOUT.world_size
    assert proof.operations[("all_reduce", "embedding")] == LAYOUT.world_size // 2
    assert proof.operations[("send", "pipeline")] == proof.operations[("receive", "pipeline")] == 3 * 2 * 3 * 4
    assert proof.busiest_rank == LAYOUT.rank_at(tensor=0, data=0, pipeline=1)
    assert sum(proof.operations_of_busiest.values()) == sum(map(len, programs(LAYOUT, 3)[proof.busiest_rank]))


def test_the_plants_are_where_they_should_be() -> None:
    step = [list(together) for together in programs(LAYOUT)[RANK]]
    for wanted in (FIRST_REDUCE, SEND, RECEIVE):
        number, place = where(step, **wanted)
        assert step[number][place].what == wanted["what"]
