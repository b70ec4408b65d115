"""What a rank calls for the layers and the ends of the model, as mai's engine computes them on Megatron-Core's."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.matrices import column_parallel, network, norm, row_parallel
from mai.plan.communication.modules import Module, Weights, within
from mai.plan.communication.of_attention import grouped_query_attention, latent_attention
from mai.plan.communication.of_experts import of_experts
from mai.plan.communication.operation import Operation

_CHUNK_TOKENS = 4096
"""mai/kernels/linear_cross_entropy.py"""


def modules_of_layer(caller: Caller, layer: int, *, prefix: str) -> list[Module]:
    """`prefix`: of the names of its parameters."""
    model = caller.recipe.model
    attention = grouped_query_attention if model.latent_attention is None else latent_attention
    has_experts = model.has_experts(layer)
    return within(
        prefix,
        norm(f"{prefix}.input_layernorm"),
        *attention(caller, f"{prefix}.self_attention"),
        norm(f"{prefix}.pre_mlp_layernorm"),
        of_experts(caller, f"{prefix}.mlp") if has_experts else network(caller, "feed_forward", f"{prefix}.mlp"),
    )


def embedding(caller: Caller) -> list[Module]:
    """Tensor ranks share the vocabulary."""
    width = caller.recipe.model.hidden_size
    return within("embedding", row_parallel(caller, "embedding.word_embeddings", outputs=width, biases=False))


def output(caller: Caller) -> list[Module]:
    """Norm, output layer and cross entropy, which are one operation where the weight is held whole (mai/kernels/
    linear_cross_entropy.py)."""
    matrix = column_parallel(caller, "output_layer", inputs=caller.recipe.model.hidden_size, biases=False)
    chunks = [min(_CHUNK_TOKENS, caller.tokens - first) for first in range(0, caller.tokens, _CHUNK_TOKENS)]
    losses = tuple(
        call for tokens in chunks for call in caller.tensor("all_gather", 3 * tokens, "cross entropy", "float32")
    )
    loss = Module("loss", matrix.forward + losses, matrix.backward)
    if caller.recipe.parallel.sharding == "optimizer":
        # Its products come before the backward pass, and its weight's gradient is complete with the first of it.
        weights = tuple(event for event in matrix.backward if isinstance(event, Weights))
        calls = tuple(event for event in matrix.backward if isinstance(event, Operation))
        loss = Module("loss", loss.forward, weights + (calls[1:] if caller.recipe.parallel.sequence else calls))
    return [norm("decoder.final_layernorm"), *within("output_layer", loss)]
