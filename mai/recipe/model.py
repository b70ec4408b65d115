"""The shape of the model: a decoder of layers with RMSNorm, rotary positions and no biases; attention and feed-forward
come in kinds."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class GroupedQueryAttention:
    """Every group of query heads shares one key and value head (GQA, arXiv 2305.13245)."""

    kind: Literal["grouped_query"] = "grouped_query"


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
        return self.experts is not None and layer >= self.experts.num_dense_layers
