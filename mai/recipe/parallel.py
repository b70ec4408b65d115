"""How the run is cut over ranks. Nothing here changes what is trained, only who computes it."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class ParallelConfig:
    tensor: int = Field(default=1, gt=0)
    """Ranks that share each matrix; keep it within one node."""

    sequence: bool = False
    """Also split norms and residuals along the sequence over the tensor ranks (needs tensor > 1)."""

    pipeline: int = Field(default=1, gt=0)
    """Stages that the layers are cut into."""

    data: int | None = Field(default=None, gt=0)
    """Copies of the model that share the batch; None takes all ranks that the launcher brings (1 in a plain shell
    on CPU, the machine's GPUs on CUDA)."""

    micro_batch_sequences: int = Field(default=1, gt=0)
    """Sequences that go through the model at once on one data-parallel rank."""

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline
