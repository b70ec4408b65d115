"""What is told of a proof: how much was looked at, and each fault with its rank, its place and its call."""

import json

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import families
from mai.plan.proof.of_schedule import placed
from mai.plan.proof.proof import prove
from mai.plan.published import published
from mai.plan.telling.proof_lines import lines
from tests.unit.plan.proof.hand_made import changing, leaving_out, planted, programs

LAYOUT = Layout(tensor=2, pipeline=4, data=2)


def told(faulty: list[Program]) -> list[str]:
    found = placed(prove(families(LAYOUT), faulty.__getitem__), LAYOUT)
    values = published(found)
    assert json.loads(json.dumps(values)) == values
    return list(lines(found))


def test_a_proof_in_full() -> None:
    assert told(programs(LAYOUT, 2)) == [
        "schedule     16 ranks, 4 programs, 4 kinds of ranks",
        "calls of a step                    all ranks  rank 4",
        "all-gather, data with context             16       1",
        "all-reduce, embedding                      8       0",
        "all-reduce, model                         16       1",
        "all-reduce, tensor                       128       8",
        "receive, pipeline                         48       4",
        "reduce-scatter, data with context         16       1",
        "send, pipeline                            48       4",
        "all                                      280      19",
        "proved: every rank reaches the end of its step, and calls that meet are of one kind, size, type and tensor",
    ]


def fault(faulty: list[Program]) -> str:
    """What follows on the verdict, however it is wrapped."""
    found = told(faulty)
    return " ".join(line.strip() for line in found[found.index("NOT proved: 1 fault") + 1 :])


def test_a_fault_in_full() -> None:
    wanted = {"kind": "send", "what": "forward of micro-batch 1, from stage 1"}
    assert fault(planted(programs(LAYOUT, 2), 7, changing(wanted, elements=128))) == (
        "calls of different sizes meet: pipeline group of ranks 3, 7, 11, 15 "
        "rank 7 (tensor 1, data 1, pipeline 1): call 8, send, pipeline, place 2, 128 x bf16: "
        "forward of micro-batch 1, from stage 1 "
        "rank 11 (tensor 1, data 1, pipeline 2): call 5, receive, pipeline, place 1, 256 x bf16: "
        "forward of micro-batch 1, from stage 1"
    )


def test_a_circle_in_full() -> None:
    model = Operation("all_reduce", "model", 1, "fp32", what="norm")
    pipeline = Operation("all_reduce", "pipeline", 1, "fp32", what="loss")
    turned: list[Program] = [((model,), (pipeline,)), ((pipeline,), (model,))]
    assert fault([turned[LAYOUT.coordinates(rank).pipeline == 2] for rank in range(LAYOUT.world_size)]) == (
        "ranks wait for each other in a circle: "
        "rank 8 (tensor 0, data 0, pipeline 2) waits for rank 0 in call 1, all-reduce, pipeline, 1 x fp32: loss "
        "rank 0 (tensor 0, data 0, pipeline 0) waits for rank 8 in call 1, all-reduce, model, 1 x fp32: norm"
    )


def test_who_lacks_a_call_goes_on_with_the_next() -> None:
    wanted = {"group": "tensor", "what": "layer 0, forward of micro-batch 1"}
    assert fault(planted(programs(LAYOUT, 2), 7, leaving_out(**wanted))) == (
        "a call is missing: tensor group of ranks 6, 7 "
        "rank 7 (tensor 1, data 1, pipeline 1): goes on with call 6, all-reduce, tensor, 256 x bf16: "
        "layer 1, forward of micro-batch 1 "
        "rank 6 (tensor 0, data 1, pipeline 1): call 6, all-reduce, tensor, 256 x bf16: "
        "layer 0, forward of micro-batch 1"
    )


def test_two_faults_of_one_rank_are_told_as_the_first_and_a_number() -> None:
    faulty = planted(programs(LAYOUT, 2), 7, changing({"group": "model"}, elements=2))
    found = fault(planted(faulty, 7, changing({"group": "data_with_context"}, dtype="bf16")))
    assert found.startswith("calls of different types meet: data with context group of ranks 5, 7 ")
    assert found.endswith("1 further difference of this rank, of the same cause or behind it")


def test_a_rank_that_calls_nothing_more_and_one_in_no_group() -> None:
    found = fault(planted(programs(LAYOUT, 2), 7, lambda step: step.pop()))
    assert "rank 7 (tensor 1, data 1, pipeline 1): nothing more there in this step" in found
    stray = Operation("all_reduce", "embedding", 1, "fp32")
    found = fault(planted(programs(LAYOUT, 2), 7, lambda step: step.append([stray])))
    assert found == (
        "a call goes to the wrong group: the rank is in no embedding group "
        "rank 7 (tensor 1, data 1, pipeline 1): call 20, all-reduce, embedding, 1 x fp32"
    )
