"""Every parameter of the model: its name, its whole shape, how tensor ranks split it, and beside which layer it lives.

The names are mai's own for all layouts, and equal the keys that Megatron-Core's sharded state gives its GPTModel when
layers are counted over all stages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from mai.recipe import ModelConfig


class Split(Enum):
    """What one of T tensor ranks holds of a parameter."""

    NONE = "none"
    """All of it."""
    ROWS = "rows"
    """Every T-th part of the rows: whole heads, or hidden units."""
    GATE_AND_UP_ROWS = "gate_and_up_rows"
    """Its rows of the first half (gate) and of the second half (up)."""
    COLUMNS = "columns"
    """Every T-th part of the columns."""
    VOCABULARY_ROWS = "vocabulary_rows"
    """Its rows of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    """Over all ranks; rows are outputs and columns are inputs, as in torch."""
    split: Split
    layer: int
    """Where it lives: the embedding with the first layer, final norm and output layer with the last."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def parameters(model: ModelConfig) -> Iterator[Parameter]:
    """All parameters in the order of the forward pass; embedding and output layer are not tied."""
    last = model.num_layers - 1
    vocabulary = (model.vocab_size, model.hidden_size)
    yield Parameter("embedding.word_embeddings.weight", vocabulary, Split.VOCABULARY_ROWS, 0)
    for layer in range(model.num_layers):
        yield from layer_parameters(model, layer)
    yield Parameter("decoder.final_layernorm.weight", (model.hidden_size,), Split.NONE, last)
    yield Parameter("output_layer.weight", vocabulary, Split.VOCABULARY_ROWS, last)


def layer_parameters(model: ModelConfig, layer: int) -> Iterator[Parameter]:
    """One layer's parameters.

    The rows of `linear_qkv` go by key-value head: its query heads, then its key, then its value.
    """
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    heads = model.num_heads * model.head_size
    keys_and_values = 2 * model.num_kv_heads * model.head_size
    shapes_and_splits = {
        "input_layernorm": ((hidden,), Split.NONE),
        "self_attention.linear_qkv": ((heads + keys_and_values, hidden), Split.ROWS),
        "self_attention.linear_proj": ((hidden, heads), Split.COLUMNS),
        "pre_mlp_layernorm": ((hidden,), Split.NONE),
        "mlp.linear_fc1": ((2 * ffn, hidden), Split.GATE_AND_UP_ROWS),
        "mlp.linear_fc2": ((hidden, ffn), Split.COLUMNS),
    }
    for name, (shape, split) in shapes_and_splits.items():
        yield Parameter(f"decoder.layers.{layer}.{name}.weight", shape, split, layer)


def num_parameters(model: ModelConfig) -> int:
    """Elements of all parameters, without walking over the layers."""
    one_layer = sum(parameter.num_elements for parameter in layer_parameters(model, 0))
    embedding_and_output = 2 * model.vocab_size * model.hidden_size
    return embedding_and_output + model.num_layers * one_layer + model.hidden_size
