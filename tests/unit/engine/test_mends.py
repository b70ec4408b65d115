"""What `mai/engine/mends.py` mends is still broken upstream: when a new Megatron-Core fails here, a mend can go."""

import inspect

import pytest


@pytest.mark.usefixtures("cpu_engine")
def test_recomputing_a_norm_needs_no_transformer_engine() -> None:
    from megatron.core import tensor_parallel
    from megatron.core.tensor_parallel.random import CheckpointWithoutOutput

    from mai.engine.mends import mend

    assert CheckpointWithoutOutput().fp8, "Megatron-Core no longer takes its default for fp8: the mend can go"
    mend()
    assert not tensor_parallel.CheckpointWithoutOutput().fp8
    assert tensor_parallel.CheckpointWithoutOutput(fp8=True).fp8
    assert list(inspect.signature(CheckpointWithoutOutput).parameters) == ["fp8"]
