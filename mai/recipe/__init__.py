"""What a run is: frozen, typed values that load in a blink (no torch)."""

from mai.recipe.checkpoint import CheckpointConfig
from mai.recipe.data import DataConfig
from mai.recipe.evaluate import EvaluateConfig
from mai.recipe.model import (
    DenseFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
    ModelConfig,
)
from mai.recipe.objective import ObjectiveConfig
from mai.recipe.observe import ObserveConfig
from mai.recipe.optimizer import Cosine, OptimizerConfig, WarmupStableDecay
from mai.recipe.parallel import ParallelConfig
from mai.recipe.positions import (
    DynamicPositions,
    LinearPositions,
    Llama3Positions,
    LongPositions,
    UnscaledPositions,
    YarnPositions,
)
from mai.recipe.precision import PrecisionConfig
from mai.recipe.recipe import Recipe, fingerprint, to_dict
from mai.recipe.resilience import ResilienceConfig
from mai.recipe.train import TrainConfig

__all__ = [
    "CheckpointConfig",
    "Cosine",
    "DataConfig",
    "DenseFeedForward",
    "DynamicPositions",
    "EvaluateConfig",
    "GroupedQueryAttention",
    "LatentAttention",
    "LinearPositions",
    "Llama3Positions",
    "LongPositions",
    "MixtureOfExperts",
    "ModelConfig",
    "ObjectiveConfig",
    "ObserveConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PrecisionConfig",
    "Recipe",
    "ResilienceConfig",
    "TrainConfig",
    "UnscaledPositions",
    "WarmupStableDecay",
    "YarnPositions",
    "fingerprint",
    "to_dict",
]
