"""Rotary frequencies of a model, and what a longer context makes of them. Pure arithmetic."""

import math
from collections.abc import Sequence

from mai.recipe import (
    DynamicPositions,
    LinearPositions,
    Llama3Positions,
    LongPositions,
    ModelConfig,
    UnscaledPositions,
    YarnPositions,
)


def frequencies(model: ModelConfig, *, length: int, has_window: bool = False) -> Sequence[float]:
    """Radians that each pair of a head turns by from one position to the next, fastest first; 0 for pairs that carry no
    position.

    `length` of the context: beyond the original one some kinds turn otherwise. `has_window`: of a layer with one."""
    turned, size = _turned(model, length=length, has_window=has_window), table_size(model)
    return [*turned, *[0.0] * (size // 2 - len(turned))]


def _turned(model: ModelConfig, *, length: int, has_window: bool) -> Sequence[float]:
    positions, base, size = model.positions, model.rotary_base, model.rotary_size
    if has_window and model.window_rotary_base is not None:
        positions, base = UnscaledPositions(), model.window_rotary_base
    if isinstance(positions, DynamicPositions):
        base *= _growth(positions, length, size=size)
    plain = [base ** -(pair / size) for pair in range(0, size, 2)]
    if isinstance(positions, LinearPositions):
        return [frequency / positions.factor for frequency in plain]
    if isinstance(positions, LongPositions):
        divisors = positions.long_factors if length > positions.original_length else positions.short_factors
        return [frequency / divisor for frequency, divisor in zip(plain, divisors, strict=True)]
    if isinstance(positions, Llama3Positions):
        return [_llama3(frequency, positions) for frequency in plain]
    if isinstance(positions, YarnPositions):
        return _yarn(plain, positions, base=base)
    return plain


def table_size(model: ModelConfig) -> int:
    """Numbers that the tables of cos and sin have for a position: a head's, or its rotary part's."""
    latent = model.latent_attention
    return model.head_size if latent is None else latent.rotary_head_size


def rotation_scale(model: ModelConfig, *, has_window: bool = False) -> float:
    """Factor on turned queries and keys (YaRN, arXiv 2309.00071, section 3.4)."""
    positions = model.positions
    if has_window and model.window_rotary_base is not None:
        return 1.0
    if isinstance(positions, LongPositions):
        return positions.rotation_scale
    if not isinstance(positions, YarnPositions):
        return 1.0
    return _sharper(positions.factor, 1.0) if positions.rotation_scale is None else positions.rotation_scale


def softmax_scale(model: ModelConfig) -> float | None:
    """Factor on the logits of attention; None for 1 / sqrt(size of a query)."""
    if model.softmax_scale is not None:
        return model.softmax_scale
    positions = model.positions
    if not isinstance(positions, YarnPositions) or positions.softmax_scale == 0:
        return None
    latent = model.latent_attention
    size = model.head_size + (0 if latent is None else latent.rotary_head_size)
    return _sharper(positions.factor, positions.softmax_scale) ** 2 / math.sqrt(size)


def _sharper(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


def _growth(positions: DynamicPositions, length: int, *, size: int) -> float:
    """transformers, modeling_rope_utils.py, _compute_dynamic_ntk_parameters."""
    share = max(length, positions.original_length) / positions.original_length
    return math.pow(positions.factor * share - (positions.factor - 1), size / (size - 2))


def _llama3(frequency: float, positions: Llama3Positions) -> float:
    turns = positions.original_length * frequency / (2 * math.pi)
    low, high = positions.low_frequency_factor, positions.high_frequency_factor
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return kept * frequency + (1 - kept) * frequency / positions.factor


def _yarn(plain: Sequence[float], positions: YarnPositions, *, base: float) -> Sequence[float]:
    """transformers, modeling_rope_utils.py, _compute_yarn_parameters."""
    size = 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        return size * math.log(positions.original_length / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(positions.beta_fast), pair_that_turns(positions.beta_slow)
    if positions.whole_bounds:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low or 0.001
    found = []
    for pair, frequency in enumerate(plain):
        divided = min(1.0, max(0.0, (pair - low) / width))
        found.append(divided * frequency / positions.factor + (1 - divided) * frequency)
    return found
