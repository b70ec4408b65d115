"""What most families have in common: embedding and norms, grouped-query attention, gated networks, and their config."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from mai.model.hf_config import HfConfig
from mai.model.hf_rotary import rotary_of, rotary_parameters
from mai.model.hf_rules import HeadOrder, OfHeads, Rule, Same, Source, Stacked, StackedByHead, Target
from mai.recipe import DynamicPositions, ModelConfig


def sizes(config: HfConfig, *, kinds: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of ModelConfig that every family's config.json calls the same; `kinds` as in `rotary_of`."""
    config.must_be("hidden_act", ["silu", "swish"])
    return {**sizes_but_for_positions(config), **rotary_of(config, kinds=kinds)}


def sizes_but_for_positions(config: HfConfig) -> dict[str, Any]:
    # The longest context that it is meant for; only some kinds of positions hang on it, and ask.
    config.pass_over("max_position_embeddings")
    heads = config.number("num_attention_heads", int)
    hidden = config.number("hidden_size", int)
    return {
        "num_layers": config.number("num_hidden_layers", int),
        "hidden_size": hidden,
        "ffn_hidden_size": config.number("intermediate_size", int),
        "num_heads": heads,
        "num_kv_heads": config.optional("num_key_value_heads") or heads,
        "head_size": config.optional("head_dim") or hidden // max(heads, 1),
        "vocab_size": config.number("vocab_size", int),
        "norm_epsilon": config.number("rms_norm_eps", float),
        "init_std": config.number("initializer_range", float),
        "tied_embeddings": config.number("tie_word_embeddings", bool),
    }


def windows(window: int | None, has_window: Sequence[bool]) -> dict[str, Any]:
    """The fields of ModelConfig that say which layers have a window; as a rule where there is one."""
    everywhere = [layer for layer, has in enumerate(has_window) if not has]
    if window is None or len(everywhere) == len(has_window):
        return {}
    every = everywhere[0] + 1 if everywhere else None
    if every is not None and everywhere != list(range(every - 1, len(has_window), every)):
        return {"window": window, "global_layers": tuple(everywhere)}
    return {"window": window, "global_every": every}


def layer_types(config: HfConfig, usual: Sequence[bool]) -> Sequence[bool]:
    """Which layers have a window, as `layer_types` says; `usual` where it says nothing."""
    said = config.value("layer_types")
    if said is None:
        return usual
    names = ["full_attention", "sliding_attention"]
    if isinstance(said, list) and len(said) == len(usual) and all(name in names for name in said):
        return [name == names[1] for name in said]
    config.refuse("layer_types", f"one of {' or '.join(map(repr, names))} is needed for each of {len(usual)} layers")
    return usual


def upper_windows(config: HfConfig, num_layers: int) -> dict[str, Any]:
    """Where only the layers from `max_window_layers` on have a window, and only if it is used at all (Qwen)."""
    window = config.optional("sliding_window") if config.number("use_sliding_window", bool) else None
    config.pass_over("sliding_window")
    first = config.number("max_window_layers", int)
    return windows_in_use(config, window, [window is not None and layer >= first for layer in range(num_layers)])


def windows_in_use(config: HfConfig, window: int | None, usual: Sequence[bool]) -> dict[str, Any]:
    """Where `use_sliding_window` says whether there are any: layers that it contradicts are refused, as one part of
    transformers takes its word and another theirs."""
    has_window = layer_types(config, usual)
    if window is None and any(has_window):
        config.refuse("layer_types", "names windows, and use_sliding_window says that there are none")
    return windows(window, has_window)


def upper_windows_of(model: ModelConfig) -> dict[str, Any]:
    """The same the other way."""
    return {
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "layer_types": layer_types_of(model),
    }


def layer_types_of(model: ModelConfig) -> list[str]:
    all_windows = (model.window_of(layer) for layer in range(model.num_layers))
    return ["full_attention" if window is None else "sliding_attention" for window in all_windows]


def sparse_layers(config: HfConfig, num_layers: int) -> dict[str, Any] | None:
    """The fields of MixtureOfExperts that say which layers have experts, as a rule where there is one; None where no
    layer has (Qwen: the last of each `decoder_sparse_step` layers, without `mlp_only_layers`)."""
    step, without = config.number("decoder_sparse_step", int), config.value("mlp_only_layers") or []
    if not isinstance(without, list) or not all(isinstance(layer, int) for layer in without):
        config.refuse("mlp_only_layers", "a list of layers, counted from 0, is needed")
        without = []
    dense = [layer for layer in range(num_layers) if layer in without or step < 1 or (layer + 1) % step]
    if len(dense) == num_layers:
        return None
    first = next(layer for layer in range(num_layers) if layer not in dense)
    if dense == list(range(first)):
        return {"num_dense_layers": first}
    if not without:
        return {"every": step}
    return {"dense_layers": tuple(dense)}


def attention_biases(config: HfConfig) -> Literal["none", "all"]:
    return "all" if config.number("attention_bias", bool) else "none"


def base_config(model: ModelConfig, *, context: int) -> dict[str, Any]:
    """The same the other way."""
    positions = model.positions
    return {
        "hidden_act": "silu",
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": positions.original_length if isinstance(positions, DynamicPositions) else context,
        "rope_parameters": rotary_parameters(model.rotary_base, positions),
        **({} if model.rotary_share == 1 else {"partial_rotary_factor": model.rotary_share}),
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_embeddings,
    }


def ends(model: ModelConfig) -> Iterator[Rule]:
    """Embedding, final norm, output layer."""
    yield same("embedding.word_embeddings.weight", "model.embed_tokens.weight")
    yield same("decoder.final_layernorm.weight", "model.norm.weight")
    if not model.tied_embeddings:
        yield same("output_layer.weight", "lm_head.weight")


def norms(layer: int) -> Iterator[Rule]:
    yield from norms_below(ours(layer, ""), theirs(layer, ""))


def norms_below(our: str, their: str) -> Iterator[Rule]:
    """Rules of the norms of a layer, by what its names begin with."""
    yield same(f"{our}input_layernorm.weight", f"{their}input_layernorm.weight")
    yield same(f"{our}pre_mlp_layernorm.weight", f"{their}post_attention_layernorm.weight")


def grouped_query_attention(model: ModelConfig, layer: int, *, are_neighbours: bool = False) -> Iterator[Rule]:
    """`are_neighbours`: the numbers of a head that turn together, in the source."""
    order = HeadOrder(model.head_size, model.rotary_size, are_neighbours)
    return grouped_query_attention_below(model, ours(layer, "self_attention."), theirs(layer, "self_attn."), order)


def grouped_query_attention_below(model: ModelConfig, our: str, their: str, order: HeadOrder) -> Iterator[Rule]:
    for state in ("weight", "bias") if model.has_query_biases else ("weight",):
        query, key, value = (Source(f"{their}{name}_proj.{state}") for name in "qkv")
        yield Rule(Target(f"{our}linear_qkv.{state}"), StackedByHead(query, key, value, model.num_kv_heads, order))
    yield from output_and_norms(model, our, their, order)


def output_and_norms(model: ModelConfig, our: str, their: str, order: HeadOrder) -> Iterator[Rule]:
    """Attention but for queries, keys and values."""
    for state in ("weight", "bias") if model.has_output_biases else ("weight",):
        yield same(f"{our}linear_proj.{state}", f"{their}o_proj.{state}")
    if model.has_head_norms:
        for name in "qk":
            yield Rule(Target(f"{our}{name}_layernorm.weight"), OfHeads(Source(f"{their}{name}_norm.weight"), order))
    if model.has_sinks:
        yield same(f"{our}core_attention.sinks", f"{their}sinks")


def joined_network(target: str, source: str) -> Iterator[Rule]:
    """Where the source has gate and up in one tensor, as we do."""
    yield same(f"{target}.linear_fc1.weight", f"{source}.gate_up_proj.weight")
    yield same(f"{target}.linear_fc2.weight", f"{source}.down_proj.weight")


def gated_network(
    target: str,
    source: str,
    *,
    expert: int | None = None,
    names: Mapping[str, str] | None = None,
    biases: bool = False,
) -> Iterator[Rule]:
    """`names`: what the family calls gate, up and down projection."""
    called = {name: f"{name}_proj" for name in ("gate", "up", "down")} if names is None else names
    for state in ("weight", "bias") if biases else ("weight",):
        gate, up, down = (Source(f"{source}.{called[name]}.{state}") for name in ("gate", "up", "down"))
        yield Rule(Target(f"{target}.linear_fc1.{state}", expert), Stacked(gate, up))
        yield Rule(Target(f"{target}.linear_fc2.{state}", expert), Same(down))


def same(target: str, source: str) -> Rule:
    return Rule(Target(target), Same(Source(source)))


def ours(layer: int, name: str) -> str:
    return f"decoder.layers.{layer}.{name}"


def theirs(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}"
