"""Which rank holds which part: degrees in, coordinates and groups of ranks out. Pure arithmetic."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mai.errors import RecipeError
from mai.recipe import ParallelConfig, Recipe
from mai.recipe.pipeline_schedule import PipelineSchedule, schedule_of
from mai.recipe.rules import world_breaches

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where one rank stands on each axis: of dense weights, and of experts."""

    tensor: int
    context: int
    data: int
    pipeline: int
    expert_tensor: int
    expert: int
    expert_data: int


_DENSE = ("tensor", "context", "data", "pipeline")
_EXPERT = ("expert_tensor", "expert", "expert_data", "pipeline")


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks run over tensor first, then context, data and pipeline; the experts cut each stage's ranks anew.

        rank = tensor + T * (context + C * (data + D * pipeline))
             = expert_tensor + ET * (expert + E * (expert_data + ED * pipeline))      with T * C * D = ET * E * ED

    That is Megatron-Core's order "tp-cp-ep-dp-pp" (megatron/core/parallel_state.py, RankGenerator), and it keeps the
    tensor ranks, which talk most, on neighbouring devices of one node. The groups come in its order too.
    """

    tensor: int
    pipeline: int
    data: int
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    virtual_stages: int = 1
    """On each stage."""
    sharding_copies: int = 1
    """Copies that hybrid sharding keeps equal; 1 where all data-parallel ranks share out one."""

    def __post_init__(self) -> None:
        assert self.stage_ranks % (self.expert * self.expert_tensor) == 0, (
            f"{self}: the rules let no such layout through"
        )

    @classmethod
    def of(cls, parallel: ParallelConfig, world_size: int) -> "Layout":
        """The recipe's layout on this many ranks; RecipeError where they do not fit."""
        breaches = list(world_breaches(parallel, world_size))
        if breaches:
            raise RecipeError(*(breach.message for breach in breaches))
        data = world_size // parallel.model_ranks
        sharing = parallel.context * data
        return cls(
            tensor=parallel.tensor,
            pipeline=parallel.pipeline,
            data=data,
            context=parallel.context,
            expert=parallel.expert,
            expert_tensor=parallel.expert_tensor,
            virtual_stages=parallel.virtual_stages,
            sharding_copies=sharing // (parallel.sharding_ranks or sharing),
        )

    @property
    def degrees(self) -> dict[str, int]:
        """By axis: tensor, pipeline and data always, the others where they are above 1."""
        axes = ("tensor", "context", "pipeline", "virtual_stages", "data", "expert", "expert_tensor", "sharding_copies")
        degrees = {axis: getattr(self, axis) for axis in axes}
        return {
            axis: degree for axis, degree in degrees.items() if degree > 1 or axis in ("tensor", "pipeline", "data")
        }

    @property
    def schedule(self) -> PipelineSchedule:
        """In which order stages compute the micro-batches of a step."""
        return schedule_of(self.pipeline, self.virtual_stages)

    @property
    def stage_ranks(self) -> int:
        return self.tensor * self.context * self.data

    @property
    def world_size(self) -> int:
        return self.stage_ranks * self.pipeline

    @property
    def expert_data(self) -> int:
        """Copies of each expert."""
        return self.stage_ranks // (self.expert * self.expert_tensor)

    def coordinates(self, rank: int) -> Coordinates:
        assert 0 <= rank < self.world_size
        pipeline, on_stage = divmod(rank, self.stage_ranks)
        above_tensor, tensor = divmod(on_stage, self.tensor)
        data, context = divmod(above_tensor, self.context)
        above_expert_tensor, expert_tensor = divmod(on_stage, self.expert_tensor)
        expert_data, expert = divmod(above_expert_tensor, self.expert)
        return Coordinates(
            tensor=tensor,
            context=context,
            data=data,
            pipeline=pipeline,
            expert_tensor=expert_tensor,
            expert=expert,
            expert_data=expert_data,
        )

    def rank_at(self, *, tensor: int, data: int, pipeline: int, context: int = 0) -> int:
        return tensor + self.tensor * (context + self.context * (data + self.data * pipeline))

    @property
    def tensor_groups(self) -> tuple[Group, ...]:
        """Ranks that share each matrix."""
        return self.alike_but_for("tensor")

    @property
    def context_groups(self) -> tuple[Group, ...]:
        """Ranks that share each sequence."""
        return self.alike_but_for("context")

    @property
    def data_groups(self) -> tuple[Group, ...]:
        """Ranks that hold the same part of the model and share the batch, by whole sequences."""
        return self.alike_but_for("data")

    @property
    def data_with_context_groups(self) -> tuple[Group, ...]:
        """Ranks that hold the same dense weights: over them their gradients are summed."""
        return self.alike_but_for("data", "context")

    @property
    def pipeline_groups(self) -> tuple[Group, ...]:
        """Ranks that hand activations on, first stage first."""
        return self.alike_but_for("pipeline")

    @property
    def model_groups(self) -> tuple[Group, ...]:
        """Ranks that together hold one copy of the dense weights."""
        return self.alike_but_for("tensor", "pipeline")

    @property
    def embedding_groups(self) -> tuple[Group, ...]:
        """First and last stage of each pipeline: where the embedding and the output layer live."""
        return tuple((group[0], group[-1]) if len(group) > 1 else group for group in self.pipeline_groups)

    @property
    def expert_groups(self) -> tuple[Group, ...]:
        """Ranks that share out the experts: tokens travel between them."""
        return self.alike_but_for("expert")

    @property
    def expert_tensor_groups(self) -> tuple[Group, ...]:
        """Ranks that share each expert's matrices."""
        return self.alike_but_for("expert_tensor")

    @property
    def expert_data_groups(self) -> tuple[Group, ...]:
        """Ranks that hold the same experts: over them their gradients are summed."""
        return self.alike_but_for("expert_data")

    def alike_but_for(self, *axes: str) -> tuple[Group, ...]:
        """Ranks in groups that differ on these axes only, all of the dense cut or all of the experts' cut of a stage;
        groups and ranks ascend."""
        cut = _cut(axes)
        steps, firsts = self._along(cut, axes), self._along(cut, set(cut).difference(axes))
        return tuple(tuple(first + step for step in steps) for first in firsts)

    def first_alike_but_for(self, *axes: str) -> Group:
        """The first of these groups, that of rank 0: in each other one the ranks are as far from each other."""
        return self._along(_cut(axes), axes)

    def _along(self, cut: Sequence[str], axes: Collection[str]) -> Group:
        """The ranks at place 0 of all other axes of the cut."""
        ranks, stride = [0], 1
        for axis in cut:
            degree = getattr(self, axis)
            if axis in axes:
                ranks = [further + rank for further in range(0, stride * degree, stride) for rank in ranks]
            stride *= degree
        return tuple(ranks)


def _cut(axes: Collection[str]) -> Sequence[str]:
    """That has all of these axes."""
    cut = _DENSE if set(axes) <= set(_DENSE) else _EXPERT
    assert set(axes) <= set(cut)
    return cut


def num_micro_batches(recipe: Recipe, layout: Layout) -> int:
    """Micro-batches that one data-parallel rank computes in a step; exact for a recipe that passed the rules."""
    return recipe.batch_sequences // (recipe.parallel.micro_batch_sequences * layout.data)
