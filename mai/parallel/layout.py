"""Which rank holds which part: degrees in, coordinates and groups of ranks out. Pure arithmetic."""

from dataclasses import dataclass

from mai.errors import RecipeError
from mai.recipe import ParallelConfig, Recipe
from mai.recipe.rules import world_breaches

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where one rank stands on each axis."""

    tensor: int
    data: int
    pipeline: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks run over tensor first, then data, then pipeline: rank = tensor + T * (data + D * pipeline).

    That is Megatron-Core's order "tp-cp-ep-dp-pp" (megatron/core/parallel_state.py, RankGenerator), and it keeps the
    tensor ranks, which talk most, on neighbouring devices of one node. The groups come in its order too.
    """

    tensor: int
    pipeline: int
    data: int

    @classmethod
    def of(cls, parallel: ParallelConfig, world_size: int) -> "Layout":
        """The recipe's layout on this many ranks; RecipeError where they do not fit."""
        breaches = list(world_breaches(parallel, world_size))
        if breaches:
            raise RecipeError(*(breach.message for breach in breaches))
        return cls(parallel.tensor, parallel.pipeline, world_size // parallel.model_ranks)

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data

    def coordinates(self, rank: int) -> Coordinates:
        assert 0 <= rank < self.world_size
        rest, tensor = divmod(rank, self.tensor)
        pipeline, data = divmod(rest, self.data)
        return Coordinates(tensor=tensor, data=data, pipeline=pipeline)

    def rank_at(self, *, tensor: int, data: int, pipeline: int) -> int:
        return tensor + self.tensor * (data + self.data * pipeline)

    @property
    def tensor_groups(self) -> tuple[Group, ...]:
        """Ranks that share each matrix."""
        return tuple(
            tuple(self.rank_at(tensor=tensor, data=data, pipeline=pipeline) for tensor in range(self.tensor))
            for pipeline in range(self.pipeline)
            for data in range(self.data)
        )

    @property
    def data_groups(self) -> tuple[Group, ...]:
        """Ranks that hold the same part of the model and share the batch."""
        return tuple(
            tuple(self.rank_at(tensor=tensor, data=data, pipeline=pipeline) for data in range(self.data))
            for pipeline in range(self.pipeline)
            for tensor in range(self.tensor)
        )

    @property
    def pipeline_groups(self) -> tuple[Group, ...]:
        """Ranks that hand activations on, first stage first."""
        return tuple(
            tuple(self.rank_at(tensor=tensor, data=data, pipeline=pipeline) for pipeline in range(self.pipeline))
            for data in range(self.data)
            for tensor in range(self.tensor)
        )

    @property
    def model_groups(self) -> tuple[Group, ...]:
        """Ranks that together hold one copy of the model."""
        return tuple(
            tuple(
                self.rank_at(tensor=tensor, data=data, pipeline=pipeline)
                for pipeline in range(self.pipeline)
                for tensor in range(self.tensor)
            )
            for data in range(self.data)
        )

    @property
    def embedding_groups(self) -> tuple[Group, ...]:
        """First and last stage of each pipeline: where the embedding and the output layer live."""
        return tuple((group[0], group[-1]) if len(group) > 1 else group for group in self.pipeline_groups)


def num_micro_batches(recipe: Recipe, layout: Layout) -> int:
    """Micro-batches that one data-parallel rank computes in a step; exact for a recipe that passed the rules."""
    return recipe.batch_sequences // (recipe.parallel.micro_batch_sequences * layout.data)
