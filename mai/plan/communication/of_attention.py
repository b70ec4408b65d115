"""What a rank calls for an attention: with grouped queries (GQA), or with latent vectors (MLA)."""

from mai.plan.communication.caller import Caller
from mai.plan.communication.matrix_traffic import column_parallel, norm, row_parallel, with_bias
from mai.plan.communication.modules import Event, Module, Weights
from mai.recipe import GroupedQueryAttention


def grouped_query_attention(caller: Caller, name: str) -> list[Module]:
    model = caller.recipe.model
    attention = model.attention
    assert isinstance(attention, GroupedQueryAttention)
    projection = row_parallel(caller, f"{name}.linear_proj", outputs=model.hidden_size)
    return [
        column_parallel(caller, f"{name}.linear_qkv", inputs=model.hidden_size, biases=model.has_query_biases),
        *_norms(caller, name),
        _core(
            caller,
            key_heads=model.num_kv_heads,
            key_size=model.head_size,
            value_size=model.head_size,
            weights=(Weights(f"{name}.core_attention.sinks"),) if attention.sinks else (),
        ),
        with_bias(projection, f"{name}.linear_proj") if model.has_output_biases else projection,
    ]


def _norms(caller: Caller, name: str) -> list[Module]:
    """Norms of queries and keys; over all heads, tensor ranks add up their squares (mai/engine/all_heads_norm.py)."""
    model = caller.recipe.model
    if not model.has_head_norms:
        return []
    if not model.norms_all_heads:
        return [norm(f"{name}.{which}_layernorm") for which in "qk"]
    found = []
    for which, what in {"q": "queries", "k": "keys"}.items():
        weights = (Weights(f"{name}.{which}_layernorm.weight"),)
        forward = caller.tensor("all_reduce", caller.tokens, f"squares of {what}", "float32")
        backward = caller.tensor("all_reduce", caller.tokens, f"gradient of the squares of {what}", "float32")
        found.append(Module(f"norm of {what}", weights + forward, backward + weights))
    return found


def latent_attention(caller: Caller, name: str) -> list[Module]:
    """Every tensor rank holds the matrices down to a latent vector; its own heads come from that."""
    model = caller.recipe.model
    latent = model.latent_attention
    assert latent is not None
    if latent.query_rank is None:
        queries = [column_parallel(caller, f"{name}.linear_q_proj", inputs=model.hidden_size)]
    else:
        queries = [
            norm(f"{name}.linear_q_down_proj"),
            norm(f"{name}.q_layernorm"),
            column_parallel(caller, f"{name}.linear_q_up_proj", inputs=latent.query_rank),
        ]
    return [
        *queries,
        norm(f"{name}.linear_kv_down_proj"),
        norm(f"{name}.kv_layernorm"),
        column_parallel(caller, f"{name}.linear_kv_up_proj", inputs=latent.key_value_rank),
        _rotary_key(caller, latent.rotary_head_size),
        _core(
            caller,
            key_heads=model.num_heads,
            key_size=model.head_size + latent.rotary_head_size,
            value_size=latent.value_head_size,
        ),
        row_parallel(caller, f"{name}.linear_proj", outputs=model.hidden_size),
    ]


def _rotary_key(caller: Caller, size: int) -> Module:
    """One for all heads, on every tensor rank."""
    whole = caller.tokens * size
    if not caller.recipe.parallel.sequence:
        return Module("rotary key", (), caller.tensor("all_reduce", whole, "gradient of the rotary key"))
    gather = caller.tensor("all_gather", caller.own_tokens * size, "rotary key")
    return Module("rotary key", gather, caller.tensor("reduce_scatter", whole, "gradient of the rotary key"))


def _core(caller: Caller, *, key_heads: int, key_size: int, value_size: int, weights: tuple[Event, ...] = ()) -> Module:
    """Keys and values of all context ranks; their gradients are summed in fp32 (mai/engine/context_attention.py)."""
    rows = caller.tokens * (key_heads // caller.layout.tensor)
    key, value = rows * key_size, rows * value_size
    ranks = caller.layout.context
    forward = caller.context("all_gather", key, "keys") + caller.context("all_gather", value, "values")
    backward = caller.context("reduce_scatter", value * ranks, "gradients of values", "float32")
    backward += caller.context("reduce_scatter", key * ranks, "gradients of keys", "float32")
    return Module("attention_core", weights + forward, weights + backward)
