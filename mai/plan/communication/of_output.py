"""What a rank calls for the output layer and the cross entropy of its logits."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import column_parallel
from mai.plan.communication.modules import Event, Module, Weights, within
from mai.plan.communication.operation import Operation

_CHUNK_TOKENS = 4096
"""mai/kernels/linear_cross_entropy.py"""


def output(caller: Caller) -> list[Module]:
    return within("output_layer", token_losses(caller))


def token_losses(caller: Caller) -> Module:
    """As mai/engine/language_model.py computes them, one way or the other."""
    matrix = column_parallel(caller, "output_layer", inputs=caller.recipe.model.hidden_size)
    if not _is_one_operation(caller):
        return Module("loss", matrix.forward + _cross_entropy(caller), matrix.backward)
    chunks = [min(_CHUNK_TOKENS, caller.tokens - first) for first in range(0, caller.tokens, _CHUNK_TOKENS)]
    losses = tuple(event for tokens in chunks for event in _statistics(caller, tokens))
    # Its products come before the backward pass, and its weight's gradient is complete with the first of it.
    weights = tuple(event for event in matrix.backward if isinstance(event, Weights))
    calls = tuple(event for event in matrix.backward if isinstance(event, Operation))
    return Module("loss", matrix.forward + losses, weights + (calls[1:] if caller.recipe.parallel.sequence else calls))


def _is_one_operation(caller: Caller) -> bool:
    """Product and cross entropy (mai/engine/operations.py, choose)."""
    recipe = caller.recipe
    return recipe.kernels != "reference" and recipe.parallel.sharding == "optimizer" and recipe.objective.loss is None


def _cross_entropy(caller: Caller) -> tuple[Event, ...]:
    """What a cross entropy of all logits at once calls: ours, or Megatron-Core's
    (megatron/core/tensor_parallel/cross_entropy.py, core 0.16.1)."""
    if caller.recipe.kernels != "reference":
        return _statistics(caller, caller.tokens)
    sums = [f"cross entropy, {what}" for what in ("largest logits", "targets' logits", "sums of exponentials")]
    return tuple(event for what in sums for event in caller.tensor("all_reduce", caller.tokens, what, "float32"))


def _statistics(caller: Caller, tokens: int) -> tuple[Event, ...]:
    """Three numbers a token (mai/kernels/cross_entropy.py)."""
    return caller.tensor("all_gather", 3 * tokens, "cross entropy", "float32")
