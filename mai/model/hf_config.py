"""A Hugging Face config.json, read with all that is wrong with it told at once."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mai.errors import RecipeError
from mai.recipe import Llama3Positions, UnscaledPositions, YarnPositions

Value = TypeVar("Value", int, float, bool)
_LARGEST = 2**31 - 1
_NEEDED = {int: f"a whole number from 0 to {_LARGEST}", float: "a number", bool: "true or false"}
_MISSING = object()


def _is(value: object, kind: type) -> bool:
    """A whole number is a float as well; true and false are no numbers."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, int) and 0 <= value <= _LARGEST
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


class HfConfig:
    """Values by key; `finish` raises what was noted on the way."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._wrong: list[str] = []

    def has(self, key: str) -> bool:
        return key in self._values

    def number(self, key: str, kind: type[Value], *, default: Value | None = None) -> Value:
        """The key's value, of this type; noted as wrong where it is missing without a default, or of another."""
        value = self._values.get(key, default)
        if _is(value, kind):
            return kind(value)
        self._wrong.append(f"{key}={value!r}: {_NEEDED[kind]} is needed")
        return kind(1)

    def optional(self, key: str) -> int | None:
        """A positive whole number, or None where it is null or missing."""
        return None if self._values.get(key) is None else self.number(key, int)

    def must_be(self, key: str, choices: Sequence[object], *, default: object = _MISSING) -> None:
        """Note the value as unsupported unless it is one of these; a missing key counts as the default."""
        value = self._values.get(key, choices[0] if default is _MISSING else default)
        if value not in choices:
            self._wrong.append(f"{key}={value!r}: mai supports {' or '.join(map(repr, choices))}")

    @property
    def rotary(self) -> Mapping[str, Any]:
        """`rope_parameters`, or what older files say in `rope_theta` and `rope_scaling`."""
        found = self._values.get("rope_parameters")
        if isinstance(found, dict):
            return found
        scaling = self._values.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            self._wrong.append(f"rope_scaling={scaling!r}: a JSON object is needed")
            scaling = {}
        return {"rope_theta": self._values.get("rope_theta", 10_000.0), **scaling}

    def rotary_base(self) -> float:
        return self._sub(self.rotary).number("rope_theta", float, default=10_000.0)

    def positions(self) -> UnscaledPositions | Llama3Positions | YarnPositions:
        rotary = self._sub(self.rotary)
        kind = self.rotary.get("rope_type", self.rotary.get("type", "default"))
        if kind == "default":
            return UnscaledPositions()
        if kind == "llama3":
            return Llama3Positions(
                factor=rotary.number("factor", float),
                low_frequency_factor=rotary.number("low_freq_factor", float),
                high_frequency_factor=rotary.number("high_freq_factor", float),
                original_length=rotary.number("original_max_position_embeddings", int),
            )
        if kind == "yarn":
            return self._yarn(rotary)
        self._wrong.append(f"rope_type={kind!r}: mai supports 'default', 'llama3' or 'yarn'")
        return UnscaledPositions()

    def _yarn(self, rotary: "HfConfig") -> YarnPositions:
        factor = rotary.number("factor", float)
        weight, all_dim = (rotary.number(key, float, default=0.0) for key in ("mscale", "mscale_all_dim"))
        scale = rotary.number("attention_factor", float) if self.rotary.get("attention_factor") is not None else None
        if scale is None and weight and all_dim and factor > 0:
            scale = (0.1 * weight * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
        return YarnPositions(
            factor=factor,
            original_length=rotary.number("original_max_position_embeddings", int),
            beta_fast=rotary.number("beta_fast", float, default=32.0),
            beta_slow=rotary.number("beta_slow", float, default=1.0),
            whole_bounds=rotary.number("truncate", bool, default=True),
            rotation_scale=scale,
            softmax_scale=all_dim if self._values.get("kv_lora_rank") else 0.0,
        )

    def _sub(self, values: Mapping[str, Any]) -> "HfConfig":
        below = HfConfig(values)
        below._wrong = self._wrong
        return below

    def finish(self, place: str) -> None:
        if self._wrong:
            raise RecipeError(*(f"{place}: {wrong}" for wrong in dict.fromkeys(self._wrong)))


def rotary_parameters(base: float, positions: UnscaledPositions | Llama3Positions | YarnPositions) -> dict[str, Any]:
    """What transformers calls `rope_parameters`."""
    if isinstance(positions, Llama3Positions):
        return {
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": positions.factor,
            "low_freq_factor": positions.low_frequency_factor,
            "high_freq_factor": positions.high_frequency_factor,
            "original_max_position_embeddings": positions.original_length,
        }
    if isinstance(positions, YarnPositions):
        scale = {} if positions.rotation_scale is None else {"attention_factor": positions.rotation_scale}
        softmax = {"mscale_all_dim": positions.softmax_scale} if positions.softmax_scale else {}
        return {
            "rope_type": "yarn",
            "rope_theta": base,
            "factor": positions.factor,
            "original_max_position_embeddings": positions.original_length,
            "beta_fast": positions.beta_fast,
            "beta_slow": positions.beta_slow,
            "truncate": positions.whole_bounds,
            **scale,
            **softmax,
        }
    return {"rope_type": "default", "rope_theta": base}
