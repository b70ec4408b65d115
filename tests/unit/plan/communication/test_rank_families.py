"""Every family of groups is Megatron-Core's, and a rank finds itself in it."""

import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from mai.parallel.layout import Group, Layout
from mai.plan.communication.rank_families import families
from tests.unit.parallel.upstream import source

LAYOUTS = [
    Layout(tensor=2, pipeline=2, data=4),
    Layout(tensor=2, pipeline=2, data=4, context=2, sharding_copies=2),
    Layout(tensor=2, pipeline=3, data=4, expert=4, sharding_copies=2),
    Layout(tensor=1, pipeline=2, data=8, expert=2, expert_tensor=2, sharding_copies=2),
    Layout(tensor=4, pipeline=2, data=4, expert=4, expert_tensor=2),
]
OF_DENSE = {
    "tensor": "tp",
    "context": "cp",
    "tensor_context": "tp-cp",
    "data": "dp",
    "data_with_context": "dp-cp",
    "tensor_data_context": "tp-dp-cp",
    "pipeline": "pp",
    "model": "tp-pp",
}
OF_EXPERTS = {
    "expert": "ep",
    "expert_tensor": "tp",
    "expert_tensor_and_expert": "tp-ep",
    "expert_model": "tp-ep-pp",
    "expert_data": "dp",
}


def sets(groups: tuple[Group, ...]) -> set[frozenset[int]]:
    return set(map(frozenset, groups))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_families_are_those_of_megatron_core(layout: Layout, rank_generator: Callable[..., Any]) -> None:
    found = families(layout)
    order = "tp-cp-ep-dp-pp"
    dense = rank_generator(
        tp=layout.tensor, cp=layout.context, ep=1, dp=layout.data, pp=layout.pipeline, order=order
    ).get_ranks
    expert = rank_generator(
        tp=layout.expert_tensor, cp=1, ep=layout.expert, dp=layout.expert_data, pp=layout.pipeline, order=order
    ).get_ranks
    for theirs, names in ((dense, OF_DENSE), (expert, OF_EXPERTS)):
        for name, axes in names.items():
            assert [list(group) for group in found[name].groups] == theirs(axes), name

    # As initialize_model_parallel cuts them for its partial distributed optimizer.
    copies = layout.sharding_copies
    of_copy = layout.expert_data // copies
    between = {frozenset(group[at::of_copy]) for group in expert("dp") for at in range(of_copy)}
    assert sets(found["between_copies"].groups) == between
    within = {frozenset(group[at : at + of_copy]) for group in expert("dp") for at in range(0, len(group), of_copy)}
    assert sets(found["expert_data_within_copy"].groups) == within
    models = expert("tp-ep-pp")
    instances = {frozenset(chain(*models[at : at + of_copy])) for at in range(0, len(models), of_copy)}
    assert sets(found["optimizer_instance"].groups) == instances
    size = layout.data * layout.context // copies
    within = {frozenset(group[at : at + size]) for group in dense("dp-cp") for at in range(0, len(group), size)}
    assert sets(found["data_within_copy"].groups) == within


def test_no_family_of_megatron_core_is_forgotten() -> None:
    """The words that it gives its rank generators. Nothing that we run calls `tp-dp`; `pp` of the experts is checked
    to be that of the dense."""
    text = source("parallel_state.py")
    dense = set(re.findall(r"decoder_rank_generator\.get_ranks\('([^']+)'\)", text.replace("expert_decoder", "other")))
    expert = set(re.findall(r"expert_decoder_rank_generator\.get_ranks\('([^']+)'\)", text))
    assert dense - {"tp-dp"} == set(OF_DENSE.values())
    assert expert - {"pp"} == set(OF_EXPERTS.values())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_is_in_one_group_of_each_family_but_for_the_embedding(layout: Layout) -> None:
    for name, family in families(layout).items():
        members = [rank for group in family.groups for rank in group]
        assert len(members) == len(set(members)), name
        if name != "embedding":
            assert sorted(members) == list(range(layout.world_size)), name
        for rank in members:
            assert family.group_of(rank)[family.place_of[rank]] == rank


def test_middle_stages_are_in_no_embedding_group() -> None:
    layout = Layout(tensor=1, pipeline=4, data=2)
    with pytest.raises(KeyError):
        families(layout)["embedding"].group_of(layout.rank_at(tensor=0, data=0, pipeline=1))
