"""What a planner has to know of a model: its matrix products, its attention and its vectors. No tensors.

A recipe's model is one of them (`of_model`). So is a GPT with biases and plain feed-forward networks, which many
published measurements are of and no recipe can say.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mai.model.shapes import Split
from mai.recipe import GroupedQueryAttention, LatentAttention, ModelConfig


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix that multiplies every token, or of experts every token that one was sent."""

    name: str
    inputs: int
    outputs: int
    split: Split
    """How tensor ranks cut it, of an expert expert-tensor ranks; NONE: each multiplies a part of the sequence."""
    has_bias: bool = False

    @property
    def num_weights(self) -> int:
        """Without its bias."""
        return self.outputs * self.inputs

    @property
    def num_parameters(self) -> int:
        return self.num_parameters_on(1)

    def num_parameters_on(self, ranks: int) -> int:
        """What one of so many tensor ranks holds; a bias is cut where the rows are."""
        if self.split is Split.NONE:
            ranks = 1
        bias_ranks = 1 if self.split is Split.COLUMNS else ranks
        return self.num_weights // ranks + self.has_bias * self.outputs // bias_ranks


@dataclass(frozen=True, slots=True)
class Attention:
    heads: int
    key_heads: int
    key_size: int
    """How many numbers a head's query has, and its key as well, position included."""
    value_size: int
    products: tuple[Product, ...]
    """All but the last come before the core."""
    num_normed: int = 0
    """Numbers of a token that norms inside the attention read: of heads, or of latent vectors."""
    num_norm_parameters: int = 0
    """How many parameters those norms have."""
    norms_all_heads: bool = False
    """They are over all heads, and tensor ranks share them out; no single operation."""
    has_sinks: bool = False
    """A number for each head, which tensor ranks share out."""
    rotary_size: int = 0
    """How many numbers of a key all heads share, in latent attention; 0 in any other."""
    window: int | None = None
    turns: bool = True
    has_window_table: bool = False
    """Whether layers with a window have another table of cos and sin than those without, and this is one."""

    def num_norm_parameters_on(self, tensor: int) -> int:
        return self.num_norm_parameters // (tensor if self.norms_all_heads else 1)

    @property
    def turned_size(self) -> int:
        """Numbers of a head that are turned by their position."""
        return self.rotary_size or self.key_size

    @property
    def is_latent(self) -> bool:
        return self.rotary_size > 0

    @property
    def has_query_latent(self) -> bool:
        return any(product.name == "linear_q_down_proj" for product in self.products)


@dataclass(frozen=True, slots=True)
class Network:
    """A feed-forward network of every token."""

    width: int
    is_gated: bool
    products: tuple[Product, Product]
    activation: str = "swiglu"
    """As `model.activation`; all but swiglu are no single operation."""
    gate: Product | None = None
    """What it gives is multiplied with a share of its own, as of Qwen2-MoE's shared expert."""


@dataclass(frozen=True, slots=True)
class Experts:
    """Networks of which a router picks some for each token."""

    number: int
    per_token: int
    network: Network
    """One of them."""
    router: Product
    shared: Network | None = None
    latent_products: tuple[Product, ...] = ()
    """Down to what is sent to them and back, where that is not the hidden state."""
    keeps_scores: bool = False
    """The softmax over all experts is kept, not the picked logits."""

    def num_parameters_on(self, *, expert: int, expert_tensor: int) -> int:
        """What one rank holds of all of them, without router and shared expert."""
        of_one = sum(product.num_parameters_on(expert_tensor) for product in self.network.products)
        return self.number // expert * of_one


@dataclass(frozen=True, slots=True)
class Layer:
    attention: Attention
    feed_forward: Network | Experts
    num_input_norms: int = 2
    """Norms of what attention and network take."""
    num_output_norms: int = 0
    """Norms of what they give."""
    scales_outputs: bool = False
    """What they give is multiplied before it is added."""

    def __hash__(self) -> int:
        # What tells one model's layers apart: a search looks them up a million times, and all takes 2 microseconds.
        return hash((self.attention.window, self.attention.turns, self.experts is None))

    @property
    def network(self) -> Network | None:
        """What computes every token beside the attention."""
        return self.feed_forward.shared if isinstance(self.feed_forward, Experts) else self.feed_forward

    @property
    def experts(self) -> Experts | None:
        return self.feed_forward if isinstance(self.feed_forward, Experts) else None

    def products(self) -> Iterator[Product]:
        """The matrices of every token; those of experts are in `experts`."""
        yield from self.attention.products
        if self.experts is not None:
            yield self.experts.router
            yield from self.experts.latent_products
        if self.network is not None:
            yield from self.network.products
            if self.network.gate is not None:
                yield self.network.gate


@dataclass(frozen=True, slots=True)
class Architecture:
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    is_tied: bool
    """The output layer is the embedding."""
    norms_have_bias: bool = False
    has_zero_centred_norms: bool = False
    """What they multiply with is made anew of their weights each time."""
    num_positions: int = 0
    """Rows of a learned position embedding."""
    depths: int = 0
    """How many tokens multi-token prediction predicts beyond the next one; 0 without it."""

    @property
    def output(self) -> Product:
        return Product("output_layer", self.hidden, self.vocabulary, Split.VOCABULARY_ROWS)

    @property
    def depth_matrix(self) -> Product:
        """The matrix of one depth of multi-token prediction: from an embedding and a hidden state to the input of its
        layer."""
        return Product("eh_proj", 2 * self.hidden, self.hidden, Split.ROWS)

    @property
    def num_norm_parameters(self) -> int:
        """How many one norm of the hidden state has."""
        return self.hidden * (1 + self.norms_have_bias)

    @property
    def has_experts(self) -> bool:
        return any(layer.experts is not None for layer in self.kinds())

    def num_dense_parameters_on(self, tensor: int, layer: Layer) -> int:
        """What a tensor rank holds of a layer, without its experts."""
        products = sum(product.num_parameters_on(tensor) for product in layer.products())
        sinks = layer.attention.has_sinks * layer.attention.heads // tensor
        norms = (layer.num_input_norms + layer.num_output_norms) * self.num_norm_parameters
        return products + sinks + layer.attention.num_norm_parameters_on(tensor) + norms

    def num_depth_parameters_on(self, tensor: int) -> int:
        """What a tensor rank holds of one depth of multi-token prediction, without its experts: a matrix, a layer like
        the last, the norms of what goes in and comes out."""
        matrix = self.depth_matrix.num_parameters_on(tensor)
        return matrix + self.num_dense_parameters_on(tensor, self.layers[-1]) + 3 * self.num_norm_parameters

    @staticmethod
    def num_expert_parameters(layers: Mapping[Layer, int], *, expert: int, expert_tensor: int) -> int:
        """What one rank holds of the experts of these layers, so many of each kind."""
        return sum(
            number * layer.experts.num_parameters_on(expert=expert, expert_tensor=expert_tensor)
            for layer, number in layers.items()
            if layer.experts is not None
        )

    def kinds(self) -> Counter[Layer]:
        """How many layers are alike."""
        return Counter(self.layers)


def of_model(model: ModelConfig) -> Architecture:
    """A recipe's. Equal layers are one object."""
    alike: dict[Layer, Layer] = {}
    layers = [_layer(model, number) for number in range(model.num_layers)]
    return Architecture(
        hidden=model.hidden_size,
        vocabulary=model.vocab_size,
        layers=tuple(alike.setdefault(layer, layer) for layer in layers),
        has_zero_centred_norms=model.zero_centred_norms,
        is_tied=model.tied_embeddings,
        depths=model.multi_token_depths,
    )


def _layer(model: ModelConfig, number: int) -> Layer:
    latent = model.latent_attention
    attention = _grouped_query(model, number) if latent is None else _latent(model, latent, number)
    return Layer(
        attention,
        _feed_forward(model, number),
        num_input_norms=2 if model.has_input_norms else 0,
        num_output_norms=2 if model.has_output_norms else 0,
        scales_outputs=model.residual_scale != 1,
    )


def _feed_forward(model: ModelConfig, number: int) -> Network | Experts:
    experts, activation = model.experts, model.activation
    if experts is None or not model.has_experts(number):
        return gated_network(model.hidden_size, model.ffn_hidden_size, has_bias=model.biases, activation=activation)
    hidden, shared, latent_size = model.hidden_size, None, experts.latent_size
    if experts.shared_ffn_hidden_size:
        gate = Product("gate_weight", hidden, 1, Split.NONE) if experts.shared_gate else None
        shared = gated_network(hidden, experts.shared_ffn_hidden_size, has_bias=False, activation=activation, gate=gate)
    return Experts(
        number=experts.num_experts,
        per_token=experts.experts_per_token,
        network=gated_network(
            latent_size or hidden, experts.ffn_hidden_size, has_bias=model.biases, activation=activation
        ),
        router=Product("router", hidden, experts.num_experts, Split.NONE, has_bias=model.biases),
        shared=shared,
        latent_products=()
        if latent_size is None
        else (
            Product("fc1_latent_proj", hidden, latent_size, Split.NONE),
            Product("fc2_latent_proj", latent_size, hidden, Split.NONE),
        ),
        keeps_scores=experts.scores == "softmax" and not experts.normalised,
    )


def gated_network(
    inputs: int, width: int, *, has_bias: bool, activation: str = "swiglu", gate: Product | None = None
) -> Network:
    """SwiGLU and its like: gate and up in one product."""
    products = (
        Product("linear_fc1", inputs, 2 * width, Split.GATE_AND_UP_ROWS, has_bias=has_bias),
        Product("linear_fc2", width, inputs, Split.COLUMNS, has_bias=has_bias),
    )
    return Network(width, is_gated=True, products=products, activation=activation, gate=gate)


def _grouped_query(model: ModelConfig, number: int) -> Attention:
    kind, size = model.attention, model.head_size
    assert isinstance(kind, GroupedQueryAttention)
    rows = (model.num_heads + 2 * model.num_kv_heads) * size
    normed = (model.num_heads + model.num_kv_heads) * size
    return Attention(
        heads=model.num_heads,
        key_heads=model.num_kv_heads,
        key_size=size,
        value_size=size,
        products=(
            Product("linear_qkv", model.hidden_size, rows, Split.ROWS, has_bias=model.has_query_biases),
            Product(
                "linear_proj",
                model.num_heads * size,
                model.hidden_size,
                Split.COLUMNS,
                has_bias=model.has_output_biases,
            ),
        ),
        num_normed=normed if kind.qk_norm else 0,
        num_norm_parameters=(normed if model.norms_all_heads else 2 * size) * kind.qk_norm,
        norms_all_heads=model.norms_all_heads,
        has_sinks=kind.sinks,
        window=model.window_of(number),
        turns=model.turns(number),
        has_window_table=model.window_rotary_base is not None and model.window_of(number) is not None,
    )


def _latent(model: ModelConfig, latent: LatentAttention, number: int) -> Attention:
    hidden, heads = model.hidden_size, model.num_heads
    key_size = model.head_size + latent.rotary_head_size
    if latent.query_rank is None:
        queries = [Product("linear_q_proj", hidden, heads * key_size, Split.ROWS)]
    else:
        queries = [
            Product("linear_q_down_proj", hidden, latent.query_rank, Split.NONE),
            Product("linear_q_up_proj", latent.query_rank, heads * key_size, Split.ROWS),
        ]
    keys_and_values = heads * (model.head_size + latent.value_head_size)
    normed = (latent.query_rank or 0) + latent.key_value_rank
    return Attention(
        heads=heads,
        key_heads=heads,
        key_size=key_size,
        value_size=latent.value_head_size,
        products=(
            *queries,
            Product("linear_kv_down_proj", hidden, latent.key_value_rank + latent.rotary_head_size, Split.NONE),
            Product("linear_kv_up_proj", latent.key_value_rank, keys_and_values, Split.ROWS),
            Product("linear_proj", heads * latent.value_head_size, hidden, Split.COLUMNS),
        ),
        num_normed=normed,
        num_norm_parameters=normed,
        rotary_size=latent.rotary_head_size,
        window=model.window_of(number),
        turns=model.turns(number),
    )
