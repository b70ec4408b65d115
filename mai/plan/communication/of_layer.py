"""What a rank calls for a layer, module by module, as mai's engine computes it on Megatron-Core's."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from mai.parallel.layout import Layout
from mai.plan.communication.operation import Kind, Operation
from mai.recipe import GroupedQueryAttention, Recipe

_CHUNK_TOKENS = 4096
"""mai/kernels/linear_cross_entropy.py"""


@dataclass(frozen=True, slots=True)
class Weights:
    """A module is about to use these parameters, or, in a backward pass, their gradients are complete."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a unit of full sharding begins or ends, in the direction of the pass; a layer, experts, or an end."""

    unit: str
    is_begin: bool


Event = Operation | Weights | Edge


@dataclass(frozen=True, slots=True)
class Module:
    """Part of a layer: what it calls in both directions, in order."""

    name: str
    """As `parallel.recompute` calls it, or what it computes."""
    forward: tuple[Event, ...]
    backward: tuple[Event, ...]
    without_gradients: tuple[Event, ...] | None = None
    """A forward pass that is computed once more in the backward pass; None where it is the same."""

    @property
    def first(self) -> tuple[Event, ...]:
        return self.forward if self.without_gradients is None else self.without_gradients


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes the operations of one micro-batch: of groups with more than one rank."""

    recipe: Recipe
    layout: Layout

    @property
    def dtype(self) -> str:
        return {"bf16": "bfloat16", "fp32": "float32"}[self.recipe.precision.compute]

    @property
    def tokens(self) -> int:
        """Of a micro-batch, on one context rank."""
        parallel = self.recipe.parallel
        return parallel.micro_batch_sequences * self.recipe.data.sequence_length // parallel.context

    @property
    def own_tokens(self) -> int:
        """Of these, between the matrices that tensor ranks share."""
        return self.tokens // self.layout.tensor if self.recipe.parallel.sequence else self.tokens

    def call(
        self,
        kind: Kind,
        family: str,
        num_ranks: int,
        elements: int,
        what: str,
        dtype: str = "",
        *,
        depends_on_routing: bool = False,
    ) -> tuple[Event, ...]:
        """Nothing, of a group of one rank."""
        if num_ranks == 1:
            return ()
        dtype = dtype or self.dtype
        return (Operation(kind, family, elements, dtype, what=what, depends_on_routing=depends_on_routing),)

    def tensor(self, kind: Kind, elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        return self.call(kind, "tensor", self.layout.tensor, elements, what, dtype)

    def context(self, kind: Kind, elements: int, what: str, dtype: str = "") -> tuple[Event, ...]:
        return self.call(kind, "context", self.layout.context, elements, what, dtype)


def within(unit: str, *modules: Module) -> list[Module]:
    """The modules, between the edges of a unit."""
    begin, end = (Edge(unit, is_begin=True),), (Edge(unit, is_begin=False),)
    return [Module("unit", begin, end), *modules, Module("unit", end, begin)]


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


def attention_core(caller: Caller, *, key_heads: int, key_size: int, value_size: int) -> Module:
    """Keys and values of all context ranks; their gradients are summed in fp32 (mai/engine/context.py)."""
    rows = caller.tokens * (key_heads // caller.layout.tensor)
    key, value = rows * key_size, rows * value_size
    ranks = caller.layout.context
    forward = caller.context("all_gather", key, "keys") + caller.context("all_gather", value, "values")
    backward = caller.context("reduce_scatter", value * ranks, "gradients of values", "float32")
    backward += caller.context("reduce_scatter", key * ranks, "gradients of keys", "float32")
    return Module("attention_core", forward, backward)


def _weights(name: str, *, biases: bool) -> Weights:
    return Weights((f"{name}.weight", f"{name}.bias") if biases else (f"{name}.weight",))


def joined(name: str, *modules: Module) -> Module:
    """Modules that are computed once more together."""
    return Module(
        name,
        tuple(event for module in modules for event in module.forward),
        tuple(event for module in reversed(modules) for event in module.backward),
        without_gradients=tuple(event for module in modules for event in module.first),
    )


def forward(modules: Sequence[Module], recomputed: Set[str] = frozenset()) -> Iterator[Event]:
    """One module after the other."""
    for module in modules:
        yield from module.first if recomputed & {"layer", module.name} else module.forward


def backward(modules: Sequence[Module], recomputed: Set[str] = frozenset()) -> Iterator[Event]:
    """Last module first; what was not kept is computed once more before."""
    if "layer" in recomputed:
        yield from _again(forward(modules))
    for module in reversed(modules):
        if module.name in recomputed and "layer" not in recomputed:
            yield from _again(module.forward)
        yield from module.backward


def _again(events: Iterable[Event]) -> Iterator[Event]:
    """The weights are there by now."""
    return (event for event in events if isinstance(event, Operation))


def modules_of_layer(caller: Caller, layer: int, *, prefix: str) -> list[Module]:
    """`prefix`: of the names of its parameters."""
    model = caller.recipe.model
    attention = _grouped_query_attention if model.latent_attention is None else _latent_attention
    has_experts = model.has_experts(layer)
    return within(
        prefix,
        norm(f"{prefix}.input_layernorm"),
        *attention(caller, f"{prefix}.self_attention"),
        norm(f"{prefix}.pre_mlp_layernorm"),
        of_experts(caller, f"{prefix}.mlp") if has_experts else network(caller, "feed_forward", f"{prefix}.mlp"),
    )


def _grouped_query_attention(caller: Caller, name: str) -> list[Module]:
    model = caller.recipe.model
    attention = model.attention
    assert isinstance(attention, GroupedQueryAttention)
    return [
        column_parallel(caller, f"{name}.linear_qkv", inputs=model.hidden_size, biases=model.biases),
        *(norm(f"{name}.{which}_layernorm") for which in "qk" if attention.qk_norm),
        attention_core(caller, key_heads=model.num_kv_heads, key_size=model.head_size, value_size=model.head_size),
        row_parallel(caller, f"{name}.linear_proj", outputs=model.hidden_size, biases=model.biases),
    ]


def _latent_attention(caller: Caller, name: str) -> list[Module]:
    """Every tensor rank holds the matrices down to a latent vector; its own heads come from that."""
    model = caller.recipe.model
    latent = model.latent_attention
    assert latent is not None
    if latent.query_rank is None:
        queries = [column_parallel(caller, f"{name}.linear_q_proj", inputs=model.hidden_size, biases=False)]
    else:
        queries = [
            norm(f"{name}.linear_q_down_proj"),
            norm(f"{name}.q_layernorm"),
            column_parallel(caller, f"{name}.linear_q_up_proj", inputs=latent.query_rank, biases=False),
        ]
    return [
        *queries,
        norm(f"{name}.linear_kv_down_proj"),
        norm(f"{name}.kv_layernorm"),
        column_parallel(caller, f"{name}.linear_kv_up_proj", inputs=latent.key_value_rank, biases=False),
        _rotary_key(caller, latent.rotary_head_size),
        attention_core(
            caller,
            key_heads=model.num_heads,
            key_size=model.head_size + latent.rotary_head_size,
            value_size=latent.value_head_size,
        ),
        row_parallel(caller, f"{name}.linear_proj", outputs=model.hidden_size, biases=False),
    ]


def _rotary_key(caller: Caller, size: int) -> Module:
    """One for all heads, on every tensor rank."""
    whole = caller.tokens * size
    if not caller.recipe.parallel.sequence:
        return Module("rotary key", (), caller.tensor("all_reduce", whole, "gradient of the rotary key"))
    gather = caller.tensor("all_gather", caller.own_tokens * size, "rotary key")
    return Module("rotary key", gather, caller.tensor("reduce_scatter", whole, "gradient of the rotary key"))


def of_experts(caller: Caller, name: str) -> Module:
    """A shared expert, the router, and tokens to their experts and back (mai/engine/experts.py, dispatcher.py)."""
    experts = caller.recipe.model.experts
    assert experts is not None
    shared = []
    if experts.shared_ffn_hidden_size:
        shared = [network(caller, "shared_experts", f"{name}.shared_experts")]
    return joined("experts", *shared, _router(caller, f"{name}.router"), _routed(caller, f"{name}.experts.experts"))


def _router(caller: Caller, name: str) -> Module:
    """What balance counts is summed over the ranks that share a sequence, where gradients are wanted."""
    model, layout = caller.recipe.model, caller.layout
    experts = model.experts
    assert experts is not None
    weights = (Weights((f"{name}.weight", f"{name}.bias") if model.biases else (f"{name}.weight",)),)
    if experts.auxiliary_loss == "none":
        return Module("router", weights, weights)
    sequences = caller.recipe.parallel.micro_batch_sequences if experts.auxiliary_loss == "sequence" else 1
    ranks = layout.tensor * layout.context
    counts = caller.call(
        "all_reduce", "tensor_context", ranks, sequences * experts.num_experts, "tokens of each expert", "int64"
    )
    return Module("router", weights + counts, weights, without_gradients=weights)


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

    matrices = ("linear_fc1", "linear_fc2")
    kinds = ("weight", "bias") if model.biases else ("weight",)
    weights = [Weights(tuple(f"{name}.{matrix}.{kind}" for kind in kinds)) for matrix in matrices]
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


def network(caller: Caller, unit: str, name: str) -> Module:
    """Two matrices around an activation; `unit` is what recomputes them."""
    model = caller.recipe.model
    biases = model.biases and unit == "feed_forward"
    return joined(
        unit,
        column_parallel(caller, f"{name}.linear_fc1", inputs=model.hidden_size, biases=biases),
        row_parallel(caller, f"{name}.linear_fc2", outputs=model.hidden_size, biases=biases),
    )


def embedding(caller: Caller) -> list[Module]:
    """Tensor ranks share the vocabulary."""
    width = caller.recipe.model.hidden_size
    return within("embedding", row_parallel(caller, "embedding.word_embeddings", outputs=width, biases=False))


def output(caller: Caller, name: str) -> list[Module]:
    """Norm, output layer and cross entropy, which are one operation where the weight is held whole (mai/kernels/
    linear_cross_entropy.py)."""
    matrix = column_parallel(caller, name, inputs=caller.recipe.model.hidden_size, biases=False)
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
