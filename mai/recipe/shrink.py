"""The same layout, small enough for the processes of a laptop: what `--shrink` trains and `mai certify` runs.

axes, schedule, kinds    stay: attention, feed-forward, balancing, recompute, sharding, sequence, precision
degrees, stages          become small (shrink_layout.py)
sizes                    become small numbers that all degrees divide
data                     Python's own sources, a folder for all shrunk recipes
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm

from mai.recipe import override
from mai.recipe.checkpoint import CheckpointConfig
from mai.recipe.data import DataConfig
from mai.recipe.evaluate import EvaluateConfig
from mai.recipe.model import LatentAttention, MixtureOfExperts, ModelConfig
from mai.recipe.observe import ObserveConfig
from mai.recipe.optimizer import OptimizerConfig, WarmupStableDecay
from mai.recipe.parallel import ParallelConfig
from mai.recipe.positions import LongPositions
from mai.recipe.recipe import Recipe
from mai.recipe.shrink_layout import small_layout, traits
from mai.recipe.stage_text import BALANCED, EVEN, written_out
from mai.recipe.train import TrainConfig

DEGREES = ("tensor", "context", "pipeline", "virtual_stages", "expert", "expert_tensor", "data", "sharding_ranks")

_REPLACED = ("data", "optimizer", "train", "checkpoint", "evaluate", "observe")

# Some 20 steps of 2,048 tokens at this rate, after this warm-up: in larger steps Adam turns rounding, by which layouts
# differ, into relative differences of 1e-5 and more (recipes/debug/tiny.py).
_STEPS, _WARMUP_STEPS, _LEARNING_RATE, _BATCH_TOKENS = 20, 10, 1e-3, 2048
_VOCAB_SIZE = 512


def shrink(recipe: Recipe) -> Recipe:
    """The recipe with small degrees and sizes; it passes the rules whenever the recipe itself does."""
    parallel = small_layout(recipe.parallel, num_layers=recipe.model.num_layers)
    parallel = replace(parallel, micro_batch_sequences=min(parallel.micro_batch_sequences, 4))
    model = _model(recipe, parallel)
    train, sequence_length = _train(recipe, parallel)
    same = model.vocab_size == _VOCAB_SIZE
    return replace(
        recipe,
        name=f"{recipe.name}-shrunk",
        model=model,
        data=DataConfig(
            documents=("python:stdlib",),
            # Another vocabulary is another tokenizer, which needs a folder of its own.
            folder="data/shrunk" if same else f"data/shrunk-{model.vocab_size}",
            sequence_length=sequence_length,
        ),
        optimizer=_optimizer(recipe.optimizer),
        train=train,
        parallel=parallel,
        checkpoint=CheckpointConfig(),
        evaluate=EvaluateConfig(sequences=train.batch_tokens // sequence_length),
        observe=ObserveConfig(),
    )


def apply(recipe: Recipe, overrides: Sequence[str], *, world_size: int | None = None) -> Recipe:
    """The shrunk recipe with every `path=value`: those of the model and its layout are shrunk with it, those of how it
    trains and on what hold for the small one."""
    shrunk = shrink(override.apply(recipe, before_shrinking(overrides)))
    after = [word for word in overrides if word not in before_shrinking(overrides)]
    return override.apply(shrunk, after, world_size=world_size)


def before_shrinking(overrides: Sequence[str]) -> list[str]:
    """Those that `shrink` does not put values of its own in place of."""
    return [word for word in overrides if word.partition(".")[0].strip() not in _REPLACED]


def left_out(recipe: Recipe, overrides: Sequence[str]) -> list[str]:
    """What the recipe says of its model and `apply` leaves out, in words."""
    if not recipe.optimizer.groups or any(word.startswith("optimizer.groups") for word in overrides):
        return []
    groups = f"optimizer.groups={'; '.join(recipe.optimizer.groups)}"
    return [f"{groups}: they name parameters of the real model; give those of the small one as optimizer.groups=..."]


def degrees(recipe: Recipe) -> Mapping[str, tuple[int | None, int | None]]:
    """Each degree as the recipe has it and as `shrink` makes it; None stands for "as many as there are"."""
    shrunk = shrink(recipe).parallel
    return {name: (getattr(recipe.parallel, name), getattr(shrunk, name)) for name in DEGREES}


def lost(recipe: Recipe) -> list[str]:
    """What the layout makes ranks do and the small one does not: 16 ranks are too few for all of it."""
    return sorted(traits(recipe.parallel) - traits(shrink(recipe).parallel))


def _num_layers(parallel: ParallelConfig) -> int:
    num_virtual_stages = parallel.num_virtual_stages
    if parallel.stages == EVEN:
        return num_virtual_stages * (2 if num_virtual_stages < 4 else 1)
    if parallel.stages == BALANCED:
        # Two layers each, less embedding and loss; with two virtual stages these would be even again.
        return 2 * num_virtual_stages - 2 if num_virtual_stages > 2 else num_virtual_stages + 1
    return written_out(parallel.stages).count("t")


def _model(recipe: Recipe, parallel: ParallelConfig) -> ModelConfig:
    """Heads stay grouped if they were, and more than one a tensor rank if they were."""
    model, tensor = recipe.model, parallel.tensor
    kv_heads = tensor * (1 if model.num_kv_heads <= recipe.parallel.tensor else 2)
    small = replace(
        model,
        num_layers=_num_layers(parallel),
        hidden_size=64,
        ffn_hidden_size=_up(128, tensor),
        num_heads=kv_heads * (1 if model.num_heads == model.num_kv_heads else 2),
        num_kv_heads=kv_heads,
        head_size=16,
        vocab_size=_up(_VOCAB_SIZE, tensor),
        # Narrower than a sequence of 64, so that it cuts something off.
        window=None if model.window is None else min(model.window, 24),
        global_every=min(model.global_every or 2, 2) if model.global_every or model.global_layers else None,
        global_layers=(),
        still_layers=(_num_layers(parallel) - 1,) if model.still_layers else (),
        # Of a width of 64, whatever suits the real one.
        init_std=0.02,
        multi_token_depths=min(model.multi_token_depths, 2),
    )
    if isinstance(model.positions, LongPositions):
        small = replace(small, positions=_long(model.positions, small.rotary_size // 2))
    if (latent := model.latent_attention) is not None:
        small = replace(small, attention=_latent(latent))
    if (experts := model.experts) is not None:
        small = replace(small, feed_forward=_experts(experts, recipe.parallel, parallel))
    return small


def _long(positions: LongPositions, pairs: int) -> LongPositions:
    """As many divisors as there are pairs now."""
    short, long = ((factors * pairs)[:pairs] for factors in (positions.short_factors, positions.long_factors))
    return replace(positions, short_factors=short, long_factors=long)


def _latent(latent: LatentAttention) -> LatentAttention:
    return replace(
        latent,
        key_value_rank=32,
        query_rank=None if latent.query_rank is None else 48,
        rotary_head_size=8,
        value_head_size=16,
    )


def _experts(experts: MixtureOfExperts, parallel: ParallelConfig, small: ParallelConfig) -> MixtureOfExperts:
    """Two to four experts a rank, half of them for each token at most, and layers of both kinds if there were."""
    num_experts = small.expert * max(2, min(experts.num_experts // parallel.expert, 4))
    experts_per_token = min(experts.experts_per_token, max(2, num_experts // 2))
    if experts.num_groups > 1:
        # Four groups of two experts at least, of which a token takes two experts of each of two groups.
        num_experts, experts_per_token = _up(max(num_experts, 8), 4), 4
        best = None if experts.scores_per_group is None else min(experts.scores_per_group, 2)
        experts = replace(experts, num_groups=4, groups_per_token=2, scores_per_group=best)
        num_experts = lcm(num_experts, small.expert)
    return replace(
        experts,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        latent_size=None if experts.latent_size is None else 32,
        ffn_hidden_size=_up(32, small.expert_tensor),
        shared_ffn_hidden_size=_up(64, small.tensor) if experts.shared_ffn_hidden_size else 0,
        # Of two layers one has experts.
        num_dense_layers=min(experts.num_dense_layers, 1 if experts.every == 1 else 0),
        every=min(experts.every, 2),
        dense_layers=(0,) if experts.dense_layers and experts.every == 1 else (),
    )


def _train(recipe: Recipe, parallel: ParallelConfig) -> tuple[TrainConfig, int]:
    """With the length of a sequence: whole parts for context and tensor ranks, and micro-batches in whole rounds of
    the pipeline, two rounds at least."""
    assert parallel.data is not None
    length = _up(128 if parallel.micro_batch_sequences == 1 else 64, 2 * parallel.context * parallel.tensor)
    round_tokens = parallel.pipeline * parallel.data * parallel.micro_batch_sequences * length
    rounds = max(2, -(-_BATCH_TOKENS // round_tokens))
    return replace(recipe.train, steps=_STEPS, batch_tokens=rounds * round_tokens), length


def _optimizer(optimizer: OptimizerConfig) -> OptimizerConfig:
    schedule = replace(optimizer.schedule, warmup_steps=_WARMUP_STEPS)
    if isinstance(schedule, WarmupStableDecay):
        schedule = replace(schedule, decay_fraction=min(schedule.decay_fraction, 1 - _WARMUP_STEPS / _STEPS))
    # Groups name parameters of the real model.
    return replace(optimizer, learning_rate=_LEARNING_RATE, schedule=schedule, groups=())


def _up(size: int, unit: int) -> int:
    """The first multiple of `unit` from `size` on."""
    return -(-size // unit) * unit
