"""How far a layout may be from one rank; docs/decisions/0009-certificate.md says why, and what was measured.

fp32: each element by itself. bf16: the root mean square of a tensor's deviations, against what bf16 does on one rank.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mai.optimizer.optimizers import optimizer_of
from mai.recipe import OptimizerConfig

LOSS = 1e-5
"""fp32, loss and gradient norm: relative to one rank's."""

GRADIENT = 3e-5
"""fp32, every element of a gradient: relative to the tensor's largest element."""

SMALLEST_SCALE = 1e-2
"""fp32: of the whole gradient's root mean square; a tensor whose largest element is below that is judged by that."""

_ROUNDING = 8 * 2.0**-24
"""fp32, weights: a few roundings, relative to the tensor's largest element."""

BAND = 2.0
"""bf16: at most this many times as far from fp32 as one bf16 rank is, and besides that:"""
BF16_LOSS, BF16_NORM, BF16_GRADIENT = 5e-4, 2e-3, 1e-3
"""relative to fp32's own value (of a gradient: its root mean square);"""
_BF16_UPDATE = 0.1
"""of a weight: this share of the updates so far, and two elements that go the other way."""

STATED: Mapping[str, Mapping[str, str]] = {
    "fp32": {
        "loss": f"{LOSS:g} of one rank's",
        "gradient norm": f"{LOSS:g} of one rank's",
        "gradient": f"every element: {GRADIENT:g} of the tensor's largest",
        "weight": "every element: a few roundings at first, then what the gradients' tolerance moves through AdamW",
    },
    "bf16": {
        "loss": f"{BAND:g} times one bf16 rank's deviation from fp32, and {BF16_LOSS:g} of the loss",
        "gradient norm": f"{BAND:g} times one bf16 rank's deviation from fp32, and {BF16_NORM:g} of the norm",
        "gradient": f"root mean square: {BAND:g} times one bf16 rank's deviation from fp32, and {BF16_GRADIENT:g}",
        "weight": f"root mean square: {BAND:g} times one bf16 rank's deviation from fp32, and {_BF16_UPDATE:g} of an "
        "update",
    },
}
"""As certificates state them, by format and kind."""


def gradient_scale(reference: NDArray[np.float32], *, norm: float, num_elements: int) -> float:
    """What a difference between elements of this gradient is relative to; `norm` and `num_elements` are the whole
    model's."""
    return max(float(np.abs(reference).max()), SMALLEST_SCALE * norm / math.sqrt(num_elements))


def gradient(reference: NDArray[np.float32], *, norm: float, num_elements: int) -> float:
    """What an element of this gradient may differ by."""
    return GRADIENT * gradient_scale(reference, norm=norm, num_elements=num_elements)


class WeightAllowance:
    """What each element of one parameter may differ by after each update, if every gradient was within tolerance.

    The optimizer says how far that moves an update (`sensitivity`); and however far gradients are off, two updates
    differ by no more than twice the steepest."""

    def __init__(self, config: OptimizerConfig) -> None:
        self._clip_norm, self._optimizer = config.clip_norm, optimizer_of(config)
        self._gradient = 0.0
        self._moved: NDArray[np.float64] | float = 0.0

    def after(
        self, step: int, state: NDArray[np.float32], *, gradient: float, norm: float, learning_rate: float
    ) -> None:
        """Count in one update. `state`: of the optimizer, that it is `judged_by`; `gradient`: the tolerance of an
        element before clipping; `norm`: of the whole gradient."""
        clipped = min(1.0, self._clip_norm / norm) if norm else 1.0
        self._gradient = max(self._gradient, gradient * clipped)
        most = self._optimizer.steepest(step)
        # The layout clips by its own norm, which may be off by as much as the loss.
        off = self._gradient * self._optimizer.sensitivity(state.astype(np.float64), step) + (1 + most) * LOSS
        self._moved = self._moved + learning_rate * np.minimum(2 * most, off)

    def of(self, reference: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.broadcast_to(self._moved + _ROUNDING * float(np.abs(reference).max()), reference.shape)


def bf16_weight(band: float, *, moved: float, num_elements: int) -> float:
    """What a parameter's root mean square deviation may be; `moved` is the sum of the learning rates so far."""
    return BAND * band + moved * (_BF16_UPDATE + 2 * math.sqrt(2 / num_elements))
