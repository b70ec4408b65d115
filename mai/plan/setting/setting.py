"""What a plan is of: one step of a model, cut over the GPUs of a cluster, under one software."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from mai.hardware.cluster import Cluster
from mai.parallel.layout import Layout
from mai.parallel.stages import VirtualStage, all_virtual_stages
from mai.plan.model.activations import Cut
from mai.plan.model.architecture import Architecture
from mai.plan.model.weights import Held, held
from mai.plan.software import Software
from mai.recipe import ParallelConfig

Precision = Literal["fp32", "bf16", "fp8", "fp4"]
"""What matrix products are computed in; everything else is bf16, or fp32 where all is."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that memory and time depend on."""

    architecture: Architecture
    parallel: ParallelConfig
    """With its data ranks."""
    sequence_length: int
    num_micro_batches: int
    """That one data-parallel rank computes in a step."""
    precision: Precision
    software: Software
    cluster: Cluster
    kept_bytes: int | None = None
    """What a checkpoint holds of a parameter, by the recipe's optimizer; None where only a run's software is known."""
    imbalance: float = 1.0
    """Tokens of the busiest expert rank over the mean, where there are enough ranks for it (`cut`)."""

    @cached_property
    def layout(self) -> Layout:
        parallel = self.parallel
        assert parallel.data is not None
        return Layout.of(parallel, parallel.model_ranks * parallel.data)

    @property
    def element_bytes(self) -> int:
        """Size of a weight or an activation, as the model computes with it."""
        return 4 if self.precision == "fp32" else 2

    @property
    def optimizer_bytes(self) -> int:
        """What an optimizer holds of a parameter, fp32 weight included: as the software says, else the recipe's own."""
        held = self.software.holds.optimizer_bytes or self.kept_bytes
        assert held is not None, f"{self.software.name} says nothing of its optimizer, and no recipe is known"
        return held

    @cached_property
    def cut(self) -> Cut:
        """A rank's part of a micro-batch."""
        parallel = self.parallel
        return Cut(
            sequences=parallel.micro_batch_sequences,
            length=self.sequence_length,
            element_bytes=self.element_bytes,
            context=parallel.context,
            tensor=parallel.tensor,
            sequence=parallel.sequence and parallel.tensor > 1,
            expert=parallel.expert,
            expert_tensor=parallel.expert_tensor,
            # The busiest of so many ranks gets at most all tokens; one that has all experts, always as many.
            imbalance=min(self.imbalance, parallel.expert),
        )

    @cached_property
    def stages(self) -> tuple[tuple[VirtualStage, ...], ...]:
        """Each pipeline stage's virtual stages."""
        every = all_virtual_stages(len(self.architecture.layers), self.parallel)
        return tuple(every[stage :: self.parallel.pipeline] for stage in range(self.parallel.pipeline))

    def held_on(self, stage: int) -> Held:
        """Parameters of each of a stage's ranks."""
        cut = self.cut
        return held(
            self.architecture,
            self.stages[stage],
            tensor=cut.tensor,
            expert=cut.expert,
            expert_tensor=cut.expert_tensor,
        )

    @property
    def shards(self) -> tuple[int, int]:
        """Ranks that share out one copy of the optimizer, or of all: of dense weights, of experts."""
        layout = self.layout
        return (
            layout.context * layout.data // layout.sharding_copies,
            max(1, layout.expert_data // layout.sharding_copies),
        )

    @property
    def tokens(self) -> int:
        """Those of a whole step."""
        sequences = self.parallel.micro_batch_sequences * self.num_micro_batches * self.layout.data
        return sequences * self.sequence_length
