"""AdamW and the learning rate's way through the run."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Cosine:
    """Linear warm-up, then half a cosine down to `final_fraction` of the peak."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises by equal parts; the last of them has the peak."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of `optimizer.learning_rate`."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class WarmupStableDecay:
    """Linear warm-up, a plateau, then a linear decay over the last part of the run (MiniCPM, arXiv 2404.06395)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises by equal parts; the last of them has the peak."""
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of `train.steps` that decays, at the end: the last two at least, unless it is 0."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Learning rate behind the last step, as a share of `optimizer.learning_rate`."""

    def decay_steps(self, steps: int) -> int:
        """How many of so many steps decay."""
        return min(steps, max(2, round(self.decay_fraction * steps))) if self.decay_fraction else 0


Schedule = Annotated[Cosine | WarmupStableDecay, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class OptimizerConfig:
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""

    schedule: Schedule = Field(default_factory=Cosine)
    """`cosine` or `warmup_stable_decay`, chosen by `optimizer.schedule.kind`."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradients' running mean (Adam, arXiv 1412.6980)."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of their squares."""

    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of that mean."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; norms and biases decay only where a group says so
    (`mai/optimizer/parameter_groups.py`)."""

    clip_norm: float = Field(default=1.0, gt=0)
    """The gradient's global L2 norm is scaled down to this when larger."""

    groups: tuple[str, ...] = ()
    """Parameters that learn otherwise, by their global names; the first that matches counts. PATTERN:rate=FACTOR of the
    learning rate, PATTERN:decay=NUMBER, both, or PATTERN:frozen, such as embedding.*:rate=0.1:decay=0. What is frozen
    is not updated, but keeps its memory."""
