"""Faults planted in the programs of real recipes, in one rank or in a whole stage: each is found, once, and named."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import pytest

from mai.parallel.layout import Group, Layout
from mai.plan.communication.of_step import programs
from mai.plan.communication.operation import Operation, Program
from mai.plan.communication.rank_families import Families, Family, families
from mai.plan.proof.finding import Finding
from mai.plan.proof.proof import prove
from mai.recipe import Recipe
from recipes.debug.every_axis import experts_every_axis
from recipes.pretrain.mai1_500b import mai1_500b
from tests.unit.plan.proof.hand_made import Step, changing, leaving_out, planted, swapping


@dataclass(frozen=True)
class Planned:
    layout: Layout
    families: Families
    of_stages: tuple[Program, ...]

    @property
    def rank(self) -> int:
        """Where faults are planted: a rank of a stage with neighbours on both sides, where there is such."""
        layout = self.layout
        return layout.rank_at(tensor=1, data=layout.data - 1, pipeline=layout.pipeline // 2)

    @property
    def stage(self) -> int:
        return self.layout.coordinates(self.rank).pipeline

    @property
    def healthy(self) -> list[Program]:
        return [self.of_stages[self.layout.coordinates(rank).pipeline] for rank in range(self.layout.world_size)]

    def group(self, family: str) -> Group:
        """Of the rank."""
        return self.families[family].group_of(self.rank)

    def found(self, change: Callable[[Step], None]) -> Finding:
        """What is found where the rank's program is changed."""
        (finding,) = self.prove(planted(self.healthy, self.rank, change))
        return finding

    def found_in_stage(self, change: Callable[[Step], None]) -> Finding:
        """The same, where all ranks of its stage are changed alike."""
        wrong = planted(self.healthy, self.rank, change)[self.rank]
        of_stage = {**dict(enumerate(self.of_stages)), self.stage: wrong}
        ranks = range(self.layout.world_size)
        (finding,) = self.prove([of_stage[self.layout.coordinates(rank).pipeline] for rank in ranks])
        return finding

    def prove(self, of_ranks: list[Program]) -> tuple[Finding, ...]:
        return prove(self.families, of_ranks.__getitem__).findings

    def first(self, **wanted: object) -> Operation:
        """The rank's first call with these fields."""
        operations = chain.from_iterable(self.of_stages[self.stage])
        return next(one for one in operations if all(getattr(one, field) == value for field, value in wanted.items()))


RECIPES = {"16 ranks": experts_every_axis, "15,000 GPUs": mai1_500b}


def planned(recipe: Recipe) -> Planned:
    assert recipe.parallel.data is not None
    layout = Layout.of(recipe.parallel, recipe.parallel.model_ranks * recipe.parallel.data)
    return Planned(layout, families(layout), programs(recipe, layout))


@pytest.fixture(scope="module", params=["16 ranks", pytest.param("15,000 GPUs", marks=pytest.mark.slow)])
def step(request: pytest.FixtureRequest) -> Planned:
    return planned(RECIPES[request.param]())


def test_a_healthy_step_is_proved(step: Planned) -> None:
    assert step.prove(step.healthy) == ()


TENSOR, WEIGHTS, SEND, RECEIVE = (
    {"kind": "all_gather", "group": "tensor"},
    {"kind": "reduce_scatter", "group": "data_within_copy"},
    {"kind": "send", "group": "pipeline"},
    {"kind": "receive", "group": "pipeline"},
)
TOKENS, NORM = {"what": "number of tokens", "kind": "broadcast"}, {"what": "gradient norm"}

FAULTS: dict[str, tuple[Callable[[Step], None], str, dict[str, str]]] = {
    "a dropped all-gather": (leaving_out(**TENSOR), "missing", TENSOR),
    "a dropped sum of gradients": (leaving_out(**WEIGHTS), "missing", WEIGHTS),
    "a dropped receive": (leaving_out(**RECEIVE), "missing", RECEIVE),
    "a wrong size": (changing(TENSOR, elements=1), "size", TENSOR),
    "a wrong size of a bucket": (changing(WEIGHTS, elements=1), "size", WEIGHTS),
    "a wrong size of a send": (changing(SEND, elements=1), "size", SEND),
    "a wrong type": (changing(WEIGHTS, dtype="bfloat16"), "dtype", WEIGHTS),
    "a wrong kind": (changing(TENSOR, kind="all_reduce"), "kind", TENSOR),
    "a wrong root": (changing(TOKENS, peer=0), "root", TOKENS),
    "a wrong peer": (changing(SEND, peer=None), "peer", SEND),
    "two calls swapped": (swapping(TENSOR, {"kind": "reduce_scatter", "group": "tensor"}), "order", TENSOR),
    "a wrong group": (changing(TENSOR, group="data"), "group", TENSOR),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_rank_is_found_and_named(name: str, step: Planned) -> None:
    change, fault, wanted = FAULTS[name]
    finding, right = step.found(change), step.first(**wanted)
    assert (finding.fault, finding.groups) == (fault, 1)
    mine, theirs = finding.calls
    assert mine.rank == step.rank
    assert theirs.rank in step.group(right.group)
    # Whoever meets the rank there does what it should have done.
    assert theirs.operation is not None
    assert theirs.operation.what == right.what
    assert mine.operation != right


STAGE_FAULTS: dict[str, tuple[Callable[[Step], None], str, dict[str, str]]] = {
    "a wrong size of a send": (changing(SEND, elements=1), "size", SEND),
    "a dropped broadcast": (leaving_out(**TOKENS), "missing", TOKENS),
    "a wrong type of what all sum": (changing(NORM, dtype="float32"), "dtype", NORM),
}


@pytest.mark.parametrize("name", STAGE_FAULTS)
def test_a_fault_of_a_stage_is_one_finding_over_all_its_groups(name: str, step: Planned) -> None:
    change, fault, wanted = STAGE_FAULTS[name]
    finding, right = step.found_in_stage(change), step.first(**wanted)
    assert (finding.fault, finding.family) == (fault, right.group)
    assert finding.groups == len(step.families[right.group].groups)


@pytest.mark.parametrize("family", ["tensor", "data_within_copy", "pipeline"])
def test_a_rank_that_its_group_leaves_out_is_named(family: str, step: Planned) -> None:
    without = tuple(tuple(rank for rank in group if rank != step.rank) for group in step.families[family].groups)
    groups = {**step.families, family: Family(without)}
    findings = prove(groups, step.healthy.__getitem__).findings
    assert ("group", family, step.rank) in [(one.fault, one.family, one.calls[0].rank) for one in findings]


def test_a_rank_that_stops_early_is_named(step: Planned) -> None:
    def stop(program: Step) -> None:
        del program[len(program) // 2 :]

    finding = step.found(stop)
    assert (finding.fault, finding.calls[0].rank) == ("missing", step.rank)
    assert finding.further > 0


def norm_before_last_sum(step: Step) -> None:
    (norm,) = (number for number, (first, *_) in enumerate(step) if first.what == NORM["what"])
    last = max(number for number, (first, *_) in enumerate(step) if first.group == WEIGHTS["group"])
    step[last], step[norm] = step[norm], step[last]


def test_a_norm_that_is_asked_for_too_early_is_a_circle_through_the_rank(step: Planned) -> None:
    """All wait for it where they sum gradients, and it waits for all."""
    finding = step.found(norm_before_last_sum)
    assert finding.fault == "deadlock"
    assert (finding.calls[0].rank, finding.calls[0].operation) == (step.rank, step.first(**NORM))
    waiting = finding.calls[-1].operation
    assert waiting is not None
    assert step.rank in step.families[waiting.group].group_of(finding.calls[-1].rank)


def four_stages() -> Recipe:
    """1F1B, where neighbours exchange a hidden state for a gradient."""
    recipe = experts_every_axis()
    return replace(recipe, parallel=replace(recipe.parallel, context=1, pipeline=4, virtual_stages=1, stages="even"))


def first_gradient_before_last_warm_up_send(step: Step) -> None:
    """Wait for the first gradient while the next stage still waits for what it needs to make one."""
    sends = [(number, one) for number, together in enumerate(step) for one in together if one.group == "pipeline"]
    at, receive = next(
        (number, one) for number, one in sends if one.kind == "receive" and one.what.startswith("backward")
    )
    last_send = max(number for number, one in sends if one.kind == "send" and number < at)
    step[at].remove(receive)
    step.insert(last_send, [receive])


@pytest.mark.parametrize("recipe", [four_stages, mai1_500b])
def test_a_stage_that_waits_for_a_gradient_before_it_sends_is_a_circle_of_neighbours(
    recipe: Callable[[], Recipe],
) -> None:
    step = planned(recipe())
    finding = step.found_in_stage(first_gradient_before_last_warm_up_send)
    assert (finding.fault, finding.family) == ("deadlock", "pipeline")
    assert step.stage in [step.layout.coordinates(call.rank).pipeline for call in finding.calls]
    assert all(call.operation is not None and call.operation.group == "pipeline" for call in finding.calls)


def test_sends_that_block_one_after_the_other_are_a_circle() -> None:
    """Both neighbours send first."""
    step = planned(four_stages())
    assert step.prove(step.healthy) == ()

    def sends_first(program: Program) -> Program:
        in_order = (sorted(together, key=lambda one: one.kind != "send") for together in program)
        return tuple((operation,) for together in in_order for operation in together)

    apart = [sends_first(program) for program in step.of_stages]
    ranks = range(step.layout.world_size)
    (finding,) = step.prove([apart[step.layout.coordinates(rank).pipeline] for rank in ranks])
    assert (finding.fault, finding.family) == ("deadlock", "pipeline")
    assert [call.operation.kind for call in finding.calls if call.operation] == ["send", "send"]
