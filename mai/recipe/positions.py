"""What a longer context makes of rotary frequencies, in kinds."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class UnscaledPositions:
    """Rotary frequencies as `rotary_base` gives them."""

    kind: Literal["unscaled"] = "unscaled"


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class LinearPositions:
    """Every frequency is divided by `factor` (position interpolation, arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(ge=1)
    """By how much the context grew."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class DynamicPositions:
    """Unscaled up to `original_length`; for a longer context the base grows with it (transformers,
    modeling_rope_utils.py, _compute_dynamic_ntk_parameters)."""

    kind: Literal["dynamic"] = "dynamic"
    factor: float = Field(ge=1)
    """How fast the base grows."""

    original_length: int = Field(gt=0)
    """Context that the model was trained with before."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class LongPositions:
    """LongRoPE (arXiv 2402.13753): every pair's frequency has a divisor of its own, one up to `original_length` and
    another for a longer context."""

    kind: Literal["long"] = "long"
    short_factors: tuple[float, ...]
    """Divisors up to `original_length`, one a pair, fastest first."""

    long_factors: tuple[float, ...]
    """Those beyond it."""

    original_length: int = Field(gt=0)
    """Context that the model was trained with before."""

    rotation_scale: float = Field(default=1.0, gt=0)
    """Factor on what is turned."""


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


Positions = Annotated[
    UnscaledPositions | LinearPositions | DynamicPositions | LongPositions | Llama3Positions | YarnPositions,
    Field(discriminator="kind"),
]
