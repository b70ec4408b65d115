"""What a rank calls for a layer of experts: a shared expert, the router, tokens to their experts and back."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import network, norm
from mai.plan.communication.modules import Edge, Event, Module, Weights, joined, recomputed
from mai.plan.communication.operation import Kind


def of_experts(caller: Caller, name: str) -> Module:
    """A shared expert, the router, and tokens to their experts and back (mai/engine/experts.py, dispatcher.py)."""
    experts = caller.recipe.model.experts
    assert experts is not None
    shared = []
    if experts.shared_ffn_hidden_size:
        shared = [network(caller, "shared_experts", f"{name}.shared_experts")]
        if experts.shared_gate:
            gate = (Weights(f"{name}.shared_experts.gate_weight"),)
            shared.append(Module("shared_experts", gate, gate))
        if "shared_experts" in caller.recipe.parallel.recompute:
            shared = [recomputed(module) for module in shared]
    routed = [_routed(caller, f"{name}.experts.experts")]
    if experts.latent_size is not None:
        # Every tensor rank holds both whole, as norms.
        routed = [norm(f"{name}.fc1_latent_proj"), *routed, norm(f"{name}.fc2_latent_proj")]
    return joined("experts", *shared, _router(caller, f"{name}.router"), *routed)


def _router(caller: Caller, name: str) -> Module:
    """What balance counts is summed over the ranks that share a sequence, where gradients are wanted."""
    model, layout = caller.recipe.model, caller.layout
    experts = model.experts
    assert experts is not None
    weights = tuple(Weights(f"{name}.{kind}") for kind in (("weight", "bias") if model.biases else ("weight",)))
    if experts.auxiliary_loss == "none":
        return Module("router", weights, weights[::-1])
    sequences = caller.recipe.parallel.micro_batch_sequences if experts.auxiliary_loss == "sequence" else 1
    ranks = layout.tensor * layout.context
    counts = caller.call(
        "all_reduce", "tensor_context", ranks, sequences * experts.num_experts, "tokens of each expert", "int64"
    )
    return Module("router", weights + counts, weights[::-1], without_gradients=weights)


def _routed(caller: Caller, name: str) -> Module:
    model, layout = caller.recipe.model, caller.layout
    experts = model.experts
    assert experts is not None
    picks = caller.own_tokens * experts.experts_per_token
    rows = picks * (experts.latent_size or model.hidden_size)

    def all_to_all(elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        return caller.call("all_to_all", "expert", layout.expert, elements, what, dtype, depends_on_routing=True)

    def shared(kind: Kind, elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        ranks = layout.expert_tensor
        elements *= ranks if kind == "reduce_scatter" else 1
        return caller.call(kind, "expert_tensor", ranks, elements, what, dtype, depends_on_routing=True)

    kinds = ("weight", "bias") if model.biases else ("weight",)
    weights = [Weights(f"{name}.{matrix}.{kind}") for matrix in ("linear_fc1", "linear_fc2") for kind in kinds]
    unit = name.removesuffix(".experts")
    begin, end = Edge(unit, is_begin=True), Edge(unit, is_begin=False)
    ranks = layout.expert * layout.expert_tensor
    counts = caller.call(
        "all_gather", "expert_tensor_and_expert", ranks, experts.num_experts, "how many tokens go where", "int64"
    )
    there = all_to_all(rows, "tokens to experts") + all_to_all(picks, "their weights", "float32")
    there += shared("all_gather", rows, "tokens of experts") + shared("all_gather", picks, "their weights", "float32")
    back = shared("reduce_scatter", rows, "experts' outputs", "float32") + all_to_all(rows, "experts' outputs")
    of_back = all_to_all(rows, "gradients of outputs") + shared("all_gather", rows, "gradients of outputs", "float32")
    of_there = shared("reduce_scatter", picks, "gradients of weights", "float32")
    of_there += shared("reduce_scatter", rows, "gradients of tokens")
    of_there += all_to_all(picks, "gradients of weights", "float32") + all_to_all(rows, "gradients of tokens")
    return Module(
        "routed",
        (*counts, *there, begin, *weights, end, *back),
        (*of_back, begin, *reversed(weights), end, *of_there),
    )
