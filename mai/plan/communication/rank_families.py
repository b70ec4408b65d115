"""The groups of ranks that call together, by the name of their family."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from mai.parallel.layout import Group, Layout


@dataclass(frozen=True)
class Family:
    """Groups of one kind; a rank is in one of them, or, as the middle stages in no embedding group, in none."""

    groups: tuple[Group, ...]

    @cached_property
    def number_of(self) -> Mapping[int, int]:
        """Each rank's group."""
        return {rank: number for number, group in enumerate(self.groups) for rank in group}

    @cached_property
    def place_of(self) -> Mapping[int, int]:
        """Where each rank stands in its group."""
        return {rank: place for group in self.groups for place, rank in enumerate(group)}

    def group_of(self, rank: int) -> Group:
        """KeyError where the rank is in none."""
        return self.groups[self.number_of[rank]]


Families = Mapping[str, Family]


AXES: Mapping[str, tuple[str, ...]] = {
    "tensor": ("tensor",),
    "context": ("context",),
    "tensor_context": ("tensor", "context"),
    "data": ("data",),
    "data_with_context": ("data", "context"),
    "tensor_data_context": ("tensor", "context", "data"),
    "pipeline": ("pipeline",),
    "model": ("tensor", "pipeline"),
    "expert": ("expert",),
    "expert_tensor": ("expert_tensor",),
    "expert_tensor_and_expert": ("expert_tensor", "expert"),
    "expert_model": ("expert_tensor", "expert", "pipeline"),
    "expert_data": ("expert_data",),
}
"""On which the ranks of a group differ, by the family's name: of every family that axes make."""


def families(layout: Layout) -> Families:
    """Those that Megatron-Core makes (megatron/core/parallel_state.py, initialize_model_parallel; core 0.16.1).

    With hybrid sharding a copy is a run of neighbours in each group that shares weights, and an optimizer instance is
    a copy over all stages. Without it `data_within_copy` is `data_with_context`, and a rank alone is `between_copies`.
    """
    of_axes = {name: layout.alike_but_for(*axes) for name, axes in AXES.items()}
    dense, expert, copies = of_axes["data_with_context"], of_axes["expert_data"], layout.sharding_copies
    groups: dict[str, Iterable[Group]] = {
        **of_axes,
        "data_within_copy": _within_copies(dense, copies),
        # Of experts too: whatever shares a copy out, the same neighbours make it.
        "between_copies": _between_copies(dense, copies),
        "embedding": layout.embedding_groups,
        "expert_data_within_copy": _within_copies(expert, copies),
        "optimizer_instance": _instances(layout),
        "world": (tuple(range(layout.world_size)),),
    }
    return {name: Family(tuple(found)) for name, found in groups.items()}


def _within_copies(groups: Iterable[Group], copies: int) -> Iterable[Group]:
    for group in groups:
        size = len(group) // copies
        yield from (group[first : first + size] for first in range(0, len(group), size))


def _between_copies(groups: Iterable[Group], copies: int) -> Iterable[Group]:
    for group in groups:
        size = len(group) // copies
        yield from (group[first::size] for first in range(size))


def _instances(layout: Layout) -> Iterable[Group]:
    """Megatron-Core lists the ranks of an instance by expert data, this by rank: who is in it is the same."""
    size = layout.stage_ranks // layout.sharding_copies
    for first in range(0, layout.stage_ranks, size):
        yield tuple(
            rank
            for stage in range(0, layout.world_size, layout.stage_ranks)
            for rank in range(stage + first, stage + first + size)
        )
