"""Rotary frequencies of a model, and what a longer context makes of them. Pure arithmetic."""

import math
from collections.abc import Sequence

from mai.recipe import Llama3Positions, ModelConfig, YarnPositions


def rotary_size(model: ModelConfig) -> int:
    """Numbers of a head that carry its position."""
    latent = model.latent_attention
    return model.head_size if latent is None else latent.rotary_head_size


def frequencies(model: ModelConfig) -> Sequence[float]:
    """Radians that each pair of a head turns by from one position to the next, fastest first."""
    size = rotary_size(model)
    plain = [model.rotary_base ** -(pair / size) for pair in range(0, size, 2)]
    if isinstance(model.positions, Llama3Positions):
        return [_llama3(frequency, model.positions) for frequency in plain]
    if isinstance(model.positions, YarnPositions):
        return _yarn(plain, model.positions, base=model.rotary_base)
    return plain


def rotation_scale(model: ModelConfig) -> float:
    """Factor on turned queries and keys (YaRN, arXiv 2309.00071, section 3.4)."""
    positions = model.positions
    if not isinstance(positions, YarnPositions):
        return 1.0
    return _sharper(positions.factor, 1.0) if positions.rotation_scale is None else positions.rotation_scale


def softmax_scale(model: ModelConfig) -> float | None:
    """Factor on the logits of attention; None for 1 / sqrt(size of a query)."""
    positions = model.positions
    if not isinstance(positions, YarnPositions) or positions.softmax_scale == 0:
        return None
    latent = model.latent_attention
    size = model.head_size + (0 if latent is None else latent.rotary_head_size)
    return _sharper(positions.factor, positions.softmax_scale) ** 2 / math.sqrt(size)


def _sharper(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


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
