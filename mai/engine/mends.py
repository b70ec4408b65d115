"""What is broken in Megatron-Core 0.16.1 on any device, and mended from outside: one function each, with the place."""

import importlib
from types import SimpleNamespace
from typing import Any

from megatron.core import tensor_parallel
from megatron.core.distributed.finalize_model_grads import _get_shared_word_embedding_weight
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from torch.distributed.tensor import DTensor

# As an attribute of the package this is the function of the same name.
_finalize: Any = importlib.import_module("megatron.core.distributed.finalize_model_grads")


def mend() -> None:
    """Mend all of it; a second call changes nothing."""
    tensor_parallel.CheckpointWithoutOutput = _CheckpointWithoutOutput
    _finalize._get_shared_word_embedding_weight = _shared_embedding


class _CheckpointWithoutOutput(CheckpointWithoutOutput):
    """tensor_parallel/random.py takes the default `fp8=False` for "fp8 is on" (`fp8 is not None`), and recomputing the
    norms, which passes nothing, then needs Transformer Engine."""

    def __init__(self, fp8: bool | None = None) -> None:  # noqa: FBT001 (upstream's signature)
        super().__init__(fp8=fp8)


def _shared_embedding(model: Any, config: Any) -> Any:
    """distributed/finalize_model_grads.py, _allreduce_embedding_grad, sums a fully sharded embedding's rows over the
    stages in place, as it should, and then makes these rows the gradient of the whole weight, which torch refuses. Here
    it gets something else to put them down on."""
    weight = _get_shared_word_embedding_weight(model, config)
    return SimpleNamespace(main_grad=weight.grad) if isinstance(weight, DTensor) else weight
