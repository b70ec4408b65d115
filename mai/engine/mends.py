"""What is broken in Megatron-Core 0.16.1 on any device, and mended from outside: one function each, with the place."""

from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput


def mend() -> None:
    """Mend all of it; a second call changes nothing."""
    tensor_parallel.CheckpointWithoutOutput = _CheckpointWithoutOutput


class _CheckpointWithoutOutput(CheckpointWithoutOutput):
    """tensor_parallel/random.py takes the default `fp8=False` for "fp8 is on" (`fp8 is not None`), and recomputing the
    norms, which passes nothing, then needs Transformer Engine."""

    def __init__(self, fp8: bool | None = None) -> None:  # noqa: FBT001 (upstream's signature)
        super().__init__(fp8=fp8)
