"""Norms, and matrices that tensor ranks share: what ranks call around them."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.modules import Module, Weights, joined


def norm(name: str) -> Module:
    weights = (Weights((f"{name}.weight",)),)
    return Module("norms", weights, weights)


def column_parallel(caller: Caller, name: str, *, inputs: int, biases: bool) -> Module:
    """A matrix cut by rows: it needs all tokens, and its ranks each have a part of the gradient of what came in.

    With sequence parallelism the tokens are gathered in the backward pass once more (megatron/core/tensor_parallel/
    layers.py, LinearWithGradAccumulationAndAsyncCommunication)."""
    weights = _weights(name, biases=biases)
    whole, own = caller.tokens * inputs, caller.own_tokens * inputs
    if not caller.recipe.parallel.sequence:
        return Module(
            name, (weights,), (*caller.tensor("all_reduce", whole, f"{name}, gradient of its input"), weights)
        )
    gather = caller.tensor("all_gather", own, f"{name}, its input")
    scatter = caller.tensor("reduce_scatter", whole, f"{name}, gradient of its input")
    return Module(name, (weights, *gather), (*gather, *scatter, weights))


def row_parallel(caller: Caller, name: str, *, outputs: int, biases: bool) -> Module:
    """A matrix cut by columns: its ranks each have a part of every sum."""
    weights = _weights(name, biases=biases)
    whole, own = caller.tokens * outputs, caller.own_tokens * outputs
    if not caller.recipe.parallel.sequence:
        return Module(name, (weights, *caller.tensor("all_reduce", whole, f"{name}, its output")), (weights,))
    scatter = caller.tensor("reduce_scatter", whole, f"{name}, its output")
    gather = caller.tensor("all_gather", own, f"{name}, gradient of its output")
    return Module(name, (weights, *scatter), (*gather, weights))


def network(caller: Caller, unit: str, name: str) -> Module:
    """Two matrices around an activation; `unit` is what recomputes them."""
    model = caller.recipe.model
    biases = model.biases and unit == "feed_forward"
    return joined(
        unit,
        column_parallel(caller, f"{name}.linear_fc1", inputs=model.hidden_size, biases=biases),
        row_parallel(caller, f"{name}.linear_fc2", outputs=model.hidden_size, biases=biases),
    )


def _weights(name: str, *, biases: bool) -> Weights:
    return Weights((f"{name}.weight", f"{name}.bias") if biases else (f"{name}.weight",))
