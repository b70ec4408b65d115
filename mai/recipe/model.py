"""The shape of the model: a decoder of layers with RMSNorm and rotary positions; attention, feed-forward and what a
longer context makes of positions come in kinds."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mai.recipe.positions import Positions, UnscaledPositions


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class GroupedQueryAttention:
    """Every group of query heads shares one key and value head (GQA, arXiv 2305.13245)."""

    kind: Literal["grouped_query"] = "grouped_query"
    qk_norm: bool = False
    """RMSNorm of each head's query and key before they are turned (Qwen3, arXiv 2505.09388, section 2)."""

    norm_over: Literal["head", "all_heads"] = "head"
    """What one of these norms takes the mean over: each head, or all of them (OLMo 2, arXiv 2501.00656, section 2)."""

    biases: Literal["none", "queries_keys_values", "all"] = "none"
    """Biases in attention alone: on the product of queries, keys and values (Qwen2), or on the output's as well."""

    sinks: bool = False
    """A learned number for each head that joins the softmax and has no value (gpt-oss, arXiv 2508.10925, section 2)."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class LatentAttention:
    """Keys and values of all heads come from one short latent vector (MLA, DeepSeek-V2, arXiv 2405.04434, section 2.1).

    A head's query and key are `model.head_size` numbers without position and `rotary_head_size` with it; the rotary
    key is one for all heads. `model.num_kv_heads` equals `model.num_heads`."""

    kind: Literal["latent"] = "latent"
    key_value_rank: int = Field(gt=0)
    """Size of the latent vector that keys and values are made from."""

    query_rank: int | None = Field(default=None, gt=0)
    """Size of the latent vector that queries are made from; None makes them from the hidden state itself."""

    rotary_head_size: int = Field(gt=0)
    """Size of a head's part that carries the position; even."""

    value_head_size: int = Field(gt=0)
    """Size of one head's value."""

    norm_epsilon: float | None = Field(default=None, gt=0)
    """Added inside the norms of latent vectors; None for `model.norm_epsilon` (DeepSeek's code has 1e-6 there)."""


Attention = Annotated[GroupedQueryAttention | LatentAttention, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class DenseFeedForward:
    """One gated feed-forward network a layer (SwiGLU, arXiv 2002.05202), `model.ffn_hidden_size` wide."""

    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class MixtureOfExperts:
    """Many narrow feed-forward networks a layer, of which a router picks a few for each token; none is dropped."""

    kind: Literal["experts"] = "experts"
    num_experts: int = Field(gt=1)
    """Experts of one layer."""

    experts_per_token: int = Field(gt=0)
    """Experts that compute each token."""

    ffn_hidden_size: int = Field(gt=0)
    """Width of one expert (one of its two halves)."""

    shared_ffn_hidden_size: int = Field(default=0, ge=0)
    """Width of the shared expert, which computes every token; 0 for none."""

    shared_gate: bool = False
    """The shared expert's output is multiplied with a learned share of each token, a sigmoid (Qwen2-MoE)."""

    num_dense_layers: int = Field(default=0, ge=0)
    """How many of the first layers have one dense network, `model.ffn_hidden_size` wide, instead of experts."""

    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores: softmax over all experts (Mixtral), or sigmoid of each (DeepSeek-V3)."""

    normalised: bool = True
    """A token's experts weigh 1 together, times `routed_scale`; else each weighs its score (Switch, DeepSeek-V2)."""

    num_groups: int = Field(default=1, gt=0)
    """Groups of neighbouring experts; above 1, a token's experts come from `groups_per_token` of them (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2)."""

    groups_per_token: int = Field(default=1, gt=0)
    """Groups that a token's experts may come from, by the sum of each group's best scores."""

    scores_per_group: int | None = Field(default=None, gt=0)
    """By the sum of how many of its best scores a group is judged; None for experts_per_token / groups_per_token, as
    DeepSeek-V3's paper has it. Its code takes 2, DeepSeek-V2's 1."""

    every: int = Field(default=1, gt=0)
    """Behind the first dense layers, the last of each so many has experts; the others are dense."""

    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further layers, counted from 0, that have one dense network."""

    latent_size: int | None = Field(default=None, gt=0)
    """Width of the vector that is sent to the experts instead of the hidden state; None sends that."""

    routed_scale: float = Field(default=1.0, gt=0)
    """Factor on the sum of the picked experts."""

    auxiliary_loss: Literal["none", "sequence", "micro_batch"] = "sequence"
    """What the balancing loss counts over: each sequence (DeepSeek-V2), or a micro-batch (Switch, GShard)."""

    auxiliary_loss_weight: float = Field(default=1e-2, ge=0)
    """Factor on the balancing loss."""

    bias_update_rate: float = Field(default=0.0, ge=0)
    """By how much each expert's selection bias moves towards balance after a step (DeepSeek-V3, arXiv 2412.19437,
    section 2.1.2); 0 for no bias. Needs sigmoid scores."""

    @property
    def best_of_a_group(self) -> int:
        """By how many of its best scores a group is judged."""
        return self.scores_per_group or max(1, self.experts_per_token // self.groups_per_token)


FeedForward = Annotated[DenseFeedForward | MixtureOfExperts, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class ModelConfig:
    num_layers: int = Field(gt=0)
    """Transformer layers, over all pipeline stages."""

    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""

    ffn_hidden_size: int = Field(gt=0)
    """Width of the gated feed-forward layer (one of its two halves)."""

    num_heads: int = Field(gt=0)
    """Query heads of one attention layer."""

    num_kv_heads: int = Field(gt=0)
    """Key and value heads; divides `num_heads` (grouped-query attention)."""

    head_size: int = Field(gt=0)
    """Size of one head; even, because rotary positions turn pairs (latent attention: the part without position)."""

    vocab_size: int = Field(gt=0)
    """Rows of the embedding: at least the tokenizer's vocabulary, and a multiple of `parallel.tensor`."""

    attention: Attention = Field(default_factory=GroupedQueryAttention)
    """`grouped_query` or `latent`, chosen by `model.attention.kind`."""

    feed_forward: FeedForward = Field(default_factory=DenseFeedForward)
    """`dense` or `experts`, chosen by `model.feed_forward.kind`."""

    layer: str | None = None
    """Your own layer, as path/to/file.py:function (docs/guides/your_own_part.md); None for mai's."""

    attention_core: str | None = None
    """Your own attention core, as path/to/file.py:function; None for mai's."""

    rotary_base: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies (RoFormer, arXiv 2104.09864, section 3.2.2)."""

    rotary_share: float = Field(default=1.0, gt=0, le=1)
    """Share of a head's pairs that are turned, the first ones; the others carry no position (GPT-NeoX, arXiv
    2204.06745, section 2.1.1)."""

    positions: Positions = Field(default_factory=UnscaledPositions)
    """Rotary frequencies for a longer context: `unscaled`, `linear`, `dynamic`, `long`, `llama3` or `yarn`, chosen by
    `model.positions.kind`."""

    window: int | None = Field(default=None, gt=0)
    """Last positions that a query sees, its own included; None for all."""

    window_rotary_base: float | None = Field(default=None, gt=0)
    """Base of the rotary frequencies of layers with a window, which are unscaled then; None for those of all layers
    (Gemma 3, arXiv 2503.19786, section 2)."""

    global_every: int | None = Field(default=None, gt=0)
    """With a window: the last of so many layers sees all positions; None for no such layer."""

    global_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """With a window: layers, counted from 0, that see all positions, where `global_every` does not say it."""

    global_positions: bool = True
    """Whether layers without a window, among such with one, turn queries and keys by their positions."""

    still_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Layers, counted from 0, that do not turn queries and keys by their positions (NoPE, arXiv 2305.19466)."""

    biases: bool = False
    """Biases on attention's projections, on each expert or network, and on the router (gpt-oss); those of attention
    alone are `model.attention.biases`."""

    activation: Literal["swiglu", "clamped_swiglu", "geglu"] = "swiglu"
    """silu(gate) * up (arXiv 2002.05202), gpt-oss's clamped version of it (mai/kernels/swiglu.py), or gelu(gate) * up
    in the tanh form (Gemma)."""

    norms: Literal["before", "after", "both"] = "before"
    """What a layer norms: what attention and network take, what they give (OLMo 2, arXiv 2501.00656, section 2), or
    both (Gemma 3, GLM-4)."""

    zero_centred_norms: bool = False
    """Norms multiply with 1 + weight (Gemma)."""

    softmax_scale: float | None = Field(default=None, gt=0)
    """Factor on the logits of attention; None for 1 / sqrt(size of a query), and what `positions` make of it."""

    embedding_scale: float = Field(default=1.0, gt=0)
    """Factor on the embeddings (Gemma, Granite)."""

    residual_scale: float = Field(default=1.0, gt=0)
    """Factor on what attention and network add to the residual stream (Granite)."""

    logit_scale: float = Field(default=1.0, gt=0)
    """Factor on the logits of the vocabulary (Granite)."""

    tied_embeddings: bool = False
    """The output layer is the embedding."""

    multi_token_depths: int = Field(default=0, ge=0)
    """How many tokens after the next one are predicted too, each by one more layer behind the last (DeepSeek-V3,
    arXiv 2412.19437, section 2.2); they train the model and do not speak."""

    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the mean square inside RMSNorm."""

    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights; output projections use init_std / sqrt(2 * num_layers) (GPT-2)."""

    @property
    def experts(self) -> MixtureOfExperts | None:
        """The mixture of experts; None in a dense model."""
        return self.feed_forward if isinstance(self.feed_forward, MixtureOfExperts) else None

    @property
    def latent_attention(self) -> LatentAttention | None:
        """The latent attention; None where keys and values are projected directly."""
        return self.attention if isinstance(self.attention, LatentAttention) else None

    @property
    def rotary_size(self) -> int:
        """Numbers of a head that carry its position."""
        latent = self.latent_attention
        return 2 * int(self.head_size * self.rotary_share / 2) if latent is None else latent.rotary_head_size

    @property
    def has_input_norms(self) -> bool:
        return self.norms != "after"

    @property
    def has_output_norms(self) -> bool:
        return self.norms != "before"

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normed."""
        return isinstance(self.attention, GroupedQueryAttention) and self.attention.qk_norm

    @property
    def has_sinks(self) -> bool:
        return isinstance(self.attention, GroupedQueryAttention) and self.attention.sinks

    @property
    def norms_all_heads(self) -> bool:
        """Whether queries and keys are normed over all heads at once."""
        attention = self.attention
        return isinstance(attention, GroupedQueryAttention) and attention.qk_norm and attention.norm_over == "all_heads"

    @property
    def has_query_biases(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.biases or (isinstance(self.attention, GroupedQueryAttention) and self.attention.biases != "none")

    @property
    def has_output_biases(self) -> bool:
        """Whether attention's output has biases."""
        return self.biases or (isinstance(self.attention, GroupedQueryAttention) and self.attention.biases == "all")

    def has_experts(self, layer: int) -> bool:
        """Whether this layer, counted from 0, is a mixture of experts."""
        experts = self.experts
        if experts is None or layer < experts.num_dense_layers or layer in experts.dense_layers:
            return False
        return (layer - experts.num_dense_layers + 1) % experts.every == 0

    def window_of(self, layer: int) -> int | None:
        """Last positions that this layer's queries see; None for all."""
        is_global = self.global_every is not None and (layer + 1) % self.global_every == 0
        return None if is_global or layer in self.global_layers else self.window

    def turns(self, layer: int) -> bool:
        """Whether this layer turns queries and keys by their positions."""
        if layer in self.still_layers:
            return False
        return self.global_positions or self.window is None or self.window_of(layer) is not None
