"""What a rank calls for the layers and the embedding of the model, as mai's engine computes them on Megatron-Core's."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import network, norm, row_parallel
from mai.plan.communication.modules import Module, within
from mai.plan.communication.of_attention import grouped_query_attention, latent_attention
from mai.plan.communication.of_experts import of_experts


def modules_of_layer(caller: Caller, layer: int, *, prefix: str) -> list[Module]:
    """`prefix`: of the names of its parameters."""
    model = caller.recipe.model
    attention = grouped_query_attention if model.latent_attention is None else latent_attention
    has_experts = model.has_experts(layer)
    return [
        *([norm(f"{prefix}.input_layernorm")] if model.has_input_norms else []),
        *attention(caller, f"{prefix}.self_attention"),
        *([norm(f"{prefix}.post_self_attn_layernorm")] if model.has_output_norms else []),
        *([norm(f"{prefix}.pre_mlp_layernorm")] if model.has_input_norms else []),
        of_experts(caller, f"{prefix}.mlp") if has_experts else network(caller, "feed_forward", f"{prefix}.mlp"),
        *([norm(f"{prefix}.post_mlp_layernorm")] if model.has_output_norms else []),
    ]


def embedding(caller: Caller) -> list[Module]:
    return within("embedding", look_up(caller))


def look_up(caller: Caller) -> Module:
    """Tensor ranks share the vocabulary."""
    return row_parallel(caller, "embedding.word_embeddings", outputs=caller.recipe.model.hidden_size)
