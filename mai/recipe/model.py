"""The shape of the model: a decoder of layers with RMSNorm and rotary positions; attention, feed-forward and what a
longer context makes of positions come in kinds."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class GroupedQueryAttention:
    """Every group of query heads shares one key and value head (GQA, arXiv 2305.13245)."""

    kind: Literal["grouped_query"] = "grouped_query"
    qk_norm: bool = False
    """RMSNorm of each head's query and key before they are turned (Qwen3, arXiv 2505.09388, section 2)."""

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


Attention = Annotated[GroupedQueryAttention | LatentAttention, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class UnscaledPositions:
    """Rotary frequencies as `rotary_base` gives them."""

    kind: Literal["unscaled"] = "unscaled"


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Llama3Positions:
    """Low frequencies are divided by `factor`, high ones kept, those between blended (Llama 3.1; transformers,
    modeling_rope_utils.py, _compute_llama3_parameters)."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=1)
    """By how much the context grew."""

    low_frequency_factor: float = Field(default=1.0, gt=0)
    """Frequencies that turn less often than this over the original context are low."""

    high_frequency_factor: float = Field(default=4.0, gt=0)
    """Those that turn more often than this are high."""

    original_length: int = Field(default=8192, gt=0)
    """Context that the model was trained with before."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class YarnPositions:
    """YaRN (arXiv 2309.00071): frequencies blended by how often they turn, and the softmax made sharper."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(gt=1)
    """By how much the context grew."""

    original_length: int = Field(gt=0)
    """Context that the model was trained with before."""

    beta_fast: float = Field(default=32.0, gt=0)
    """Turns over the original context above which a frequency is kept."""

    beta_slow: float = Field(default=1.0, gt=0)
    """Turns below which it is divided by `factor`."""

    whole_bounds: bool = True
    """Round the bounds of the blend to whole dims (gpt-oss does not)."""

    rotation_scale: float | None = Field(default=None, gt=0)
    """Factor on what is turned; None for YaRN's own 0.1 * ln(factor) + 1."""

    softmax_scale: float = Field(default=0.0, ge=0)
    """The logits of attention are multiplied by (0.1 * this * ln(factor) + 1)^2 (DeepSeek-V2's mscale_all_dim)."""


Positions = Annotated[UnscaledPositions | Llama3Positions | YarnPositions, Field(discriminator="kind")]


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

    num_dense_layers: int = Field(default=0, ge=0)
    """How many of the first layers have one dense network, `model.ffn_hidden_size` wide, instead of experts."""

    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores: softmax over the picked experts (Mixtral), or sigmoid of each, normalised over the
    picked (DeepSeek-V3)."""

    num_groups: int = Field(default=1, gt=0)
    """Groups of neighbouring experts; above 1, a token's experts come from `groups_per_token` of them (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2)."""

    groups_per_token: int = Field(default=1, gt=0)
    """Groups that a token's experts may come from, by the sum of each group's best scores."""

    every: int = Field(default=1, gt=0)
    """Behind the first dense layers, the last of each so many has experts; the others are dense."""

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

    positions: Positions = Field(default_factory=UnscaledPositions)
    """Rotary frequencies for a longer context: `unscaled`, `llama3` or `yarn`, chosen by `model.positions.kind`."""

    window: int | None = Field(default=None, gt=0)
    """Last positions that a query sees, its own included; None for all."""

    global_every: int | None = Field(default=None, gt=0)
    """With a window: the last of so many layers sees all positions; None for no such layer."""

    global_positions: bool = True
    """Whether layers without a window, among such with one, turn queries and keys by their positions."""

    biases: bool = False
    """Biases on attention's projections, on each expert or network, and on the router (gpt-oss)."""

    activation: Literal["swiglu", "clamped_swiglu"] = "swiglu"
    """silu(gate) * up (arXiv 2002.05202), or gpt-oss's clamped version of it (mai/kernels/swiglu.py)."""

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

    def has_experts(self, layer: int) -> bool:
        """Whether this layer, counted from 0, is a mixture of experts."""
        experts = self.experts
        if experts is None or layer < experts.num_dense_layers:
            return False
        return (layer - experts.num_dense_layers + 1) % experts.every == 0

    def window_of(self, layer: int) -> int | None:
        """Last positions that this layer's queries see; None for all."""
        is_global = self.global_every is not None and (layer + 1) % self.global_every == 0
        return None if is_global else self.window

    def turns(self, layer: int) -> bool:
        """Whether this layer turns queries and keys by their positions."""
        return self.global_positions or self.window is None or self.window_of(layer) is not None
