"""Recipe: one whole run as a frozen value."""

import hashlib
import json
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from mai.recipe.checkpoint import CheckpointConfig
from mai.recipe.data import DataConfig
from mai.recipe.evaluate import EvaluateConfig
from mai.recipe.model import ModelConfig
from mai.recipe.objective import ObjectiveConfig
from mai.recipe.observe import ObserveConfig
from mai.recipe.optimizer import OptimizerConfig
from mai.recipe.parallel import ParallelConfig
from mai.recipe.precision import PrecisionConfig
from mai.recipe.resilience import ResilienceConfig
from mai.recipe.train import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class Recipe:
    """Everything that decides a run; `dataclasses.replace` makes variations.

    Types and ranges are checked here; rules between fields, and against a number of ranks, in `rules.check`."""

    name: str = Field(min_length=1)
    """What people call it; part of no number."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    kernels: Literal["auto", "reference", "apex"] = "auto"
    """What computes the hot path: our fused operations, plain torch, or NVIDIA apex's where it has them."""
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    observe: ObserveConfig = Field(default_factory=ObserveConfig)
    resilience: ResilienceConfig = Field(default_factory=ResilienceConfig)

    @property
    def batch_sequences(self) -> int:
        """Sequences of one step, over all ranks."""
        return self.train.batch_tokens // self.data.sequence_length


_ADAPTER = TypeAdapter(Recipe)


def all_fields(recipe: Recipe) -> dict[str, Any]:
    """Every field of every section as plain JSON values."""
    return _ADAPTER.dump_python(recipe, mode="json")  # type: ignore[no-any-return]


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values; `load.from_json` reads their text back to an equal recipe.

    Fields that came after the first fingerprints had been written down are left out at their default, so that a
    recipe that does not use them keeps its fingerprint."""
    values = all_fields(recipe)
    if not recipe.optimizer.groups:
        del values["optimizer"]["groups"]
    if recipe.resilience == ResilienceConfig():
        del values["resilience"]
    return values


def fingerprint(recipe: Recipe) -> str:
    """SHA-256 (hex) over the canonical JSON of the recipe."""
    return hashlib.sha256(json.dumps(to_dict(recipe), sort_keys=True).encode()).hexdigest()
