"""Norms, and matrices that tensor ranks share: what ranks call around them."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.modules import Module, Weights, joined


def norm(name: str) -> Module:
    weights = (Weights(f"{name}.weight"),)
    return Module("norms", weights, weights)


def column_parallel(caller: Caller, name: str, *, inputs: int, biases: bool = False) -> Module:
    """A matrix cut by rows: it needs all tokens, and its ranks each have a part of the gradient of what came in.

    With sequence parallelism the tokens are gathered in the backward pass once more (megatron/core/tensor_parallel/
    layers.py, LinearWithGradAccumulationAndAsyncCommunication)."""
    weights = (Weights(f"{name}.weight"), *([Weights(f"{name}.bias")] if biases else []))
    whole, own = caller.tokens * inputs, caller.own_tokens * inputs
    if not caller.recipe.parallel.sequence:
        return Module(name, weights, (*caller.tensor("all_reduce", whole, f"{name}, gradient of its input"), *weights))
    gather = caller.tensor("all_gather", own, f"{name}, its input")
    scatter = caller.tensor("reduce_scatter", whole, f"{name}, gradient of its input")
    return Module(name, weights + gather, gather + scatter + weights)


def row_parallel(caller: Caller, name: str, *, outputs: int) -> Module:
    """A matrix cut by columns: its ranks each have a part of every sum."""
    weights = (Weights(f"{name}.weight"),)
    whole, own = caller.tokens * outputs, caller.own_tokens * outputs
    if not caller.recipe.parallel.sequence:
        return Module(name, weights + caller.tensor("all_reduce", whole, f"{name}, its output"), weights)
    scatter = caller.tensor("reduce_scatter", whole, f"{name}, its output")
    gather = caller.tensor("all_gather", own, f"{name}, gradient of its output")
    return Module(name, weights + scatter, gather + weights)


def with_bias(module: Module, name: str) -> Module:
    """A matrix whose bias is added outside: its gradient is complete before those of the matrix and its input."""
    bias = Weights(f"{name}.bias")
    weight, *calls = module.forward
    return Module(module.name, (weight, bias, *calls), (bias, *module.backward))


def network(caller: Caller, unit: str, name: str) -> Module:
    """Two matrices around an activation; `unit` is what recomputes them."""
    model = caller.recipe.model
    first = column_parallel(caller, f"{name}.linear_fc1", inputs=model.hidden_size)
    second = row_parallel(caller, f"{name}.linear_fc2", outputs=model.hidden_size)
    if model.biases:
        first, second = with_bias(first, f"{name}.linear_fc1"), with_bias(second, f"{name}.linear_fc2")
    return joined(unit, first, second)
