"""What a Hugging Face config.json says of rotary positions, both ways.

Which of several places counts, and what a missing value is, as in transformers 5 (modeling_rope_utils.py,
RotaryEmbeddingConfigMixin.convert_rope_params_to_dict and standardize_rope_params).
"""

import math
from collections.abc import Mapping
from typing import Any

from mai.model.hf_config import HfConfig, is_a
from mai.recipe import (
    DynamicPositions,
    LinearPositions,
    Llama3Positions,
    LongPositions,
    ModelConfig,
    UnscaledPositions,
    YarnPositions,
)

Positions = UnscaledPositions | LinearPositions | DynamicPositions | Llama3Positions | LongPositions | YarnPositions

_KNOWN = (
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    *("mscale", "mscale_all_dim", "short_factor", "long_factor"),
)
"""Keys of any kind; transformers passes over those of other kinds than its own."""


def rotary_of(config: HfConfig, *, kinds: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of ModelConfig that say how queries and keys are turned. `kinds`: what a family calls a type."""
    said = config.value("rope_scaling")
    key, said = ("rope_scaling", said) if said else ("rope_parameters", config.value("rope_parameters"))
    config.pass_over("rope_parameters", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    if said is not None and not isinstance(said, dict):
        config.refuse(key, "a JSON object is needed")
        said = None
    rotary = config.below(key, said or {}, {})
    return rotary_below(config, rotary, kinds=kinds or {})


def rotary_below(config: HfConfig, rotary: HfConfig, *, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The same of one object of parameters, with what stands beside it."""
    rotary.pass_over(*_KNOWN)
    rotary.note_unknown()
    inside = rotary if rotary.has("rope_theta") else config
    return {
        "rotary_base": inside.number("rope_theta", float),
        "positions": _positions(config, rotary, kinds),
        "rotary_share": _share(config, rotary),
    }


def rotary_of_both_kinds(config: HfConfig, *, window_base: float) -> dict[str, Any]:
    """The same of a family whose layers with a window turn otherwise than those without (OLMo 3, Gemma 3); what stands
    beside `rope_parameters` speaks of the latter alone."""
    said, scaling = (config.value(key) or {} for key in ("rope_parameters", "rope_scaling"))
    config.must_be("original_max_position_embeddings", [None], because="inside of what it speaks of")
    config.must_be("partial_rotary_factor", [None, 1.0])
    kinds = {}
    for kind in ("full_attention", "sliding_attention"):
        of_kind = said.get(kind) or {} if isinstance(said, dict) else {}
        kinds[kind] = of_kind | (scaling if kind == "full_attention" and isinstance(scaling, dict) else {})
    if not isinstance(said, dict) or said.keys() - kinds:
        config.refuse("rope_parameters", f"an object each for {' and '.join(kinds)} is needed")
    full, windowed = (config.below(f"rope_parameters.{kind}", found, {}) for kind, found in kinds.items())
    fields = rotary_below(config, full, kinds={})
    if isinstance(fields["positions"], YarnPositions):
        # transformers 5.24 (_compute_yarn_parameters) looks for it beside the kinds, where it is no kind.
        full.must_be("truncate", [True, None], because="transformers does not read it here")
    windowed.pass_over(*_KNOWN)
    windowed.note_unknown()
    base = windowed.number("rope_theta", float) if windowed.has("rope_theta") else window_base
    config.pass_over("rope_theta", "rope_scaling")
    if (kind := windowed.value("rope_type") or windowed.value("type") or "default") != "default":
        windowed.refuse("rope_type", f"mai turns layers with a window without scaling, not {kind!r}")
    is_like_all = base == fields["rotary_base"] and isinstance(fields["positions"], UnscaledPositions)
    return {**fields, "window_rotary_base": None if is_like_all else base}


def both_kinds_of(model: ModelConfig) -> dict[str, Any]:
    """The same the other way."""
    full = rotary_parameters(model.rotary_base, model.positions)
    # It would not be read.
    full.pop("truncate", None)
    windowed = {"rope_type": "default", "rope_theta": model.window_rotary_base or model.rotary_base}
    return {
        "full_attention": full,
        "sliding_attention": windowed,
    }


def _share(config: HfConfig, rotary: HfConfig) -> float:
    """The share of a head that is turned, where the family turns a part of it."""
    said = rotary if rotary.has("partial_rotary_factor") else config
    share = said.value("partial_rotary_factor")
    if share is None:
        return 1.0
    if not config.turns_parts and share != 1.0:
        said.refuse("partial_rotary_factor", "its code in transformers turns whole heads")
        return 1.0
    return said.number("partial_rotary_factor", float)


def _positions(config: HfConfig, rotary: HfConfig, kinds: Mapping[str, str]) -> Positions:
    kind = rotary.value("rope_type") or rotary.value("type") or "default"
    kind = kinds.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in ("default", "yarn") and rotary.value("mscale_all_dim") and config.has("kv_lora_rank"):
        rotary.refuse("mscale_all_dim", f"mai sharpens the softmax with rope_type 'yarn' only, not with {kind!r}")
    if kind == "default":
        return UnscaledPositions()
    if kind == "linear":
        return LinearPositions(factor=rotary.number("factor", float))
    if kind == "dynamic":
        longest = config.number("max_position_embeddings", int)
        return DynamicPositions(factor=rotary.number("factor", float), original_length=longest)
    if kind == "llama3":
        return Llama3Positions(
            factor=rotary.number("factor", float),
            low_frequency_factor=rotary.number("low_freq_factor", float),
            high_frequency_factor=rotary.number("high_freq_factor", float),
            original_length=_original_length(config, rotary),
        )
    if kind == "yarn":
        return _yarn(config, rotary)
    if kind == "longrope":
        return _long(config, rotary)
    key = "rope_type" if rotary.has("rope_type") else "type"
    rotary.refuse(key, "mai supports 'default', 'linear', 'dynamic', 'llama3', 'yarn' or 'longrope'")
    return UnscaledPositions()


def _original_length(config: HfConfig, rotary: HfConfig) -> int:
    """The one beside counts before the one inside; without either it is the whole context."""
    for place in (config, rotary):
        if place.value("original_max_position_embeddings") is not None:
            return place.number("original_max_position_embeddings", int)
    return config.number("max_position_embeddings", int)


def _factor(config: HfConfig, rotary: HfConfig, original_length: int) -> float:
    if rotary.value("factor") is None:
        return config.number("max_position_embeddings", int) / max(original_length, 1)
    return rotary.number("factor", float)


def _yarn(config: HfConfig, rotary: HfConfig) -> YarnPositions:
    original_length = _original_length(config, rotary)
    factor = _factor(config, rotary, original_length)
    weight, all_dim = (rotary.number(key, float) if rotary.value(key) else 0.0 for key in ("mscale", "mscale_all_dim"))
    scale = None if rotary.value("attention_factor") is None else rotary.number("attention_factor", float)
    if scale is None and weight and all_dim and factor > 1:
        scale = (0.1 * weight * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
    return YarnPositions(
        factor=factor,
        original_length=original_length,
        beta_fast=rotary.number("beta_fast", float) if rotary.value("beta_fast") else 32.0,
        beta_slow=rotary.number("beta_slow", float) if rotary.value("beta_slow") else 1.0,
        whole_bounds=rotary.number("truncate", bool) if rotary.has("truncate") else True,
        rotation_scale=scale,
        softmax_scale=all_dim if config.has("kv_lora_rank") else 0.0,
    )


def _long(config: HfConfig, rotary: HfConfig) -> LongPositions:
    original_length = _original_length(config, rotary)
    if rotary.value("attention_factor") is None:
        factor = _factor(config, rotary, original_length)
        scale = math.sqrt(1 + math.log(factor) / math.log(original_length)) if factor > 1 and original_length > 1 else 1
    else:
        scale = rotary.number("attention_factor", float)
    short, long = (_numbers(rotary, key) for key in ("short_factor", "long_factor"))
    return LongPositions(
        short_factors=short, long_factors=long, original_length=original_length, rotation_scale=float(scale)
    )


def _numbers(rotary: HfConfig, key: str) -> tuple[float, ...]:
    values = rotary.value(key)
    if isinstance(values, list) and values and all(is_a(one, float) and one > 0 for one in values):
        return tuple(map(float, values))
    rotary.refuse(key, "a list of numbers above 0 is needed")
    return (1.0,)


def rotary_parameters(base: float, positions: Positions) -> dict[str, Any]:
    """What transformers calls `rope_parameters`."""
    kind = {"rope_theta": base}
    if isinstance(positions, LinearPositions):
        return {"rope_type": "linear", **kind, "factor": positions.factor}
    if isinstance(positions, DynamicPositions):
        return {"rope_type": "dynamic", **kind, "factor": positions.factor}
    if isinstance(positions, Llama3Positions):
        return {
            "rope_type": "llama3",
            **kind,
            "factor": positions.factor,
            "low_freq_factor": positions.low_frequency_factor,
            "high_freq_factor": positions.high_frequency_factor,
            "original_max_position_embeddings": positions.original_length,
        }
    if isinstance(positions, LongPositions):
        return {
            "rope_type": "longrope",
            **kind,
            "short_factor": list(positions.short_factors),
            "long_factor": list(positions.long_factors),
            "attention_factor": positions.rotation_scale,
            "original_max_position_embeddings": positions.original_length,
        }
    if isinstance(positions, YarnPositions):
        return {"rope_type": "yarn", **kind, **_yarn_parameters(positions)}
    return {"rope_type": "default", **kind}


def _yarn_parameters(positions: YarnPositions) -> Mapping[str, Any]:
    scale = {} if positions.rotation_scale is None else {"attention_factor": positions.rotation_scale}
    softmax = {"mscale_all_dim": positions.softmax_scale} if positions.softmax_scale else {}
    return {
        "factor": positions.factor,
        "original_max_position_embeddings": positions.original_length,
        "beta_fast": positions.beta_fast,
        "beta_slow": positions.beta_slow,
        "truncate": positions.whole_bounds,
        **scale,
        **softmax,
    }
