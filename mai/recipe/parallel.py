"""How the run is cut over ranks. Nothing here changes what is trained, only who computes it."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mai.recipe.pipeline_schedule import PipelineSchedule, schedule_of

Recomputed = Literal["layer", "attention_core", "norms", "feed_forward", "experts", "shared_experts"]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class ParallelConfig:
    tensor: int = Field(default=1, gt=0)
    """Ranks that share each matrix; keep it within one node."""

    sequence: bool = False
    """Also split norms and residuals along the sequence over the tensor ranks (needs tensor > 1)."""

    context: int = Field(default=1, gt=0)
    """Ranks that share each sequence; every rank takes one early and one late part, so that causal work is even."""

    pipeline: int = Field(default=1, gt=0)
    """Stages that the layers are cut into."""

    virtual_stages: int = Field(default=1, gt=0)
    """Runs of layers on each pipeline stage, interleaved (arXiv 2104.04473, section 2.2): a smaller bubble."""

    stages: str = Field(default="even", min_length=1)
    """Which virtual stage holds what: `even`, `balanced` (embedding and loss count as a layer each), or written out, E
    for the embedding, t for a layer, L for the loss, | between virtual stages, *n to repeat: Ett|t*3|ttL."""

    expert: int = Field(default=1, gt=0)
    """Ranks that share out the experts; they are taken from the tensor, context and data ranks."""

    expert_tensor: int = Field(default=1, gt=0)
    """Ranks that share each expert's matrices."""

    data: int | None = Field(default=None, gt=0)
    """Copies of the model that share the batch; None takes all ranks that the launcher brings (1 in a plain shell
    on CPU, the machine's GPUs on CUDA)."""

    sharding: Literal["optimizer", "full"] = "optimizer"
    """What data-parallel ranks share out: fp32 weights and moments (ZeRO-1), or weights and gradients too (ZeRO-3)."""

    sharding_ranks: int | None = Field(default=None, gt=0)
    """Data-parallel ranks (context ranks included) that share out one copy; fewer than all is hybrid sharding: the
    copies are kept equal. None for all."""

    recompute: tuple[Recomputed, ...] = ()
    """What is computed again in the backward pass instead of kept: whole layers, or single modules."""

    micro_batch_sequences: int = Field(default=1, gt=0)
    """Sequences that go through the model at once on one data-parallel rank."""

    @property
    def model_ranks(self) -> int:
        """Ranks that work on one sequence together: they hold one copy of the model, and `context` of each part."""
        return self.tensor * self.context * self.pipeline

    @property
    def num_virtual_stages(self) -> int:
        """Over all stages."""
        return self.pipeline * self.virtual_stages

    @property
    def schedule(self) -> PipelineSchedule:
        """In which order stages compute the micro-batches of a step."""
        return schedule_of(self.pipeline, self.virtual_stages)
