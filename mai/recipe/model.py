"""The shape of the model: a Llama-style decoder (RMSNorm, rotary positions, SwiGLU, grouped queries, no biases)."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


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
    """Size of one head; even, because rotary positions turn pairs."""

    vocab_size: int = Field(gt=0)
    """Rows of the embedding: at least the tokenizer's vocabulary, and a multiple of `parallel.tensor`."""

    rotary_base: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies (RoFormer, arXiv 2104.09864, section 3.2.2)."""

    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the mean square inside RMSNorm."""

    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights; output projections use init_std / sqrt(2 * num_layers) (GPT-2)."""
