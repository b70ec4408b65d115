"""A recipe's steps under several layouts, and what tests compare of them: curves, gradients, routing, bias."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe, rules
from tests.parity.trainer import HELD_OUT_SEQUENCES, STEPS, Curve, Trainer, name_of, num_ranks, open_trainer
from tests.ranks import on_ranks

Picks = dict[str, Any]
"""The routing of one step, as numpy: a tensor would travel between processes as memory that goes with its rank."""


@dataclass(frozen=True)
class Piece:
    """What one rank holds of a tensor."""

    name: str
    global_shape: tuple[int, ...]
    box: tuple[slice, ...]
    start: int
    stop: int
    values: Any


@dataclass(frozen=True)
class RankSteps:
    """What one rank saw of a layout's steps."""

    curve: Curve = field(default_factory=list)
    """Loss and gradient norm of each step; last of all the held-out loss and its number of tokens."""
    multi_token_losses: list[float | None] = field(default_factory=list)
    """Of each step."""
    gradients: list[Piece] = field(default_factory=list)
    """Of the first step."""
    routing: list[Picks] = field(default_factory=list)
    """Of each step; on one rank only."""
    bias: dict[str, list[float]] = field(default_factory=dict)
    """By layer of this rank, after the last step."""


@dataclass(frozen=True)
class LayoutSteps:
    """All ranks of one layout together."""

    ranks: list[RankSteps]

    @property
    def curve(self) -> Curve:
        assert all(rank.curve == self.ranks[0].curve for rank in self.ranks), "ranks disagree about loss or norm"
        return self.ranks[0].curve

    @property
    def multi_token_losses(self) -> list[float | None]:
        losses = self.ranks[0].multi_token_losses
        assert all(rank.multi_token_losses == losses for rank in self.ranks), "ranks disagree about further losses"
        return losses

    @property
    def bias(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for rank in self.ranks:
            for name, bias in rank.bias.items():
                assert found.setdefault(name, bias) == bias, f"ranks disagree about {name}"
        return found

    def gradients(self) -> dict[str, Tensor]:
        """Of the first step, put together from all ranks; NaN where no rank holds an element."""
        return whole_tensors(piece for rank in self.ranks for piece in rank.gradients)


def pieces_of(shards: Iterable[Any]) -> list[Piece]:
    """Every tensor of this rank's shards, under the names of block and state."""
    return [
        Piece(
            name=f"{shard.block.name}.{state}",
            global_shape=shard.block.global_shape,
            box=tuple(slice(o, o + n) for o, n in zip(shard.block.offset, shard.block.shape, strict=True)),
            start=shard.start,
            stop=shard.stop,
            values=tensor.clone().numpy(),
        )
        for shard in shards
        for state, tensor in shard.tensors.items()
    ]


def whole_tensors(pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """Put together from all ranks' pieces; NaN where none holds an element."""
    whole: dict[str, Tensor] = {}
    for piece in pieces:
        tensor = whole.setdefault(piece.name, torch.full(piece.global_shape, math.nan))
        box = tensor[piece.box].contiguous().clone()
        box.view(-1)[piece.start : piece.stop] = torch.from_numpy(piece.values)
        tensor[piece.box] = box
    return whole


def relative_differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Of each tensor as a whole, by L2 norm."""
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs}


def one_rank(recipe: Recipe, *, num_steps: int = STEPS, is_synthetic: bool = False) -> LayoutSteps:
    """The steps of one rank, with the routing written down."""
    alone = ParallelConfig(data=1, micro_batch_sequences=recipe.parallel.micro_batch_sequences)
    (answer,) = on_ranks(1, rank_steps, [replace(recipe, parallel=alone)], num_steps, None, is_synthetic)
    return LayoutSteps(answer)


def layouts(
    recipe: Recipe,
    parallels: Sequence[ParallelConfig],
    *,
    replay: Sequence[Picks] | None,
    num_steps: int = STEPS,
    is_synthetic: bool = False,
) -> dict[str, LayoutSteps]:
    """The steps of each layout, by its `name_of`; layouts of one size share their processes."""
    found = {}
    for ranks in sorted({num_ranks(parallel) for parallel in parallels}):
        same_size = [parallel for parallel in parallels if num_ranks(parallel) == ranks]
        recipes = [replace(recipe, parallel=parallel) for parallel in same_size]
        for one in recipes:
            rules.check(one, world_size=ranks)
        answers = on_ranks(ranks, rank_steps, recipes, num_steps, replay, is_synthetic, timeout_seconds=1800)
        for parallel, *of_ranks in zip(same_size, *answers, strict=True):
            found[name_of(parallel)] = LayoutSteps(of_ranks)
    return found


@dataclass(frozen=True)
class Found:
    one_rank: LayoutSteps
    layouts: dict[str, LayoutSteps]


def beside_one_rank(
    recipes: dict[str, Recipe],
    cuts: dict[str, list[ParallelConfig]],
    more_cuts: dict[str, list[ParallelConfig]],
    config: pytest.Config,
) -> dict[str, Found]:
    """Every recipe on one rank, and in every layout, where there are experts with the routing of one rank; those of
    `more_cuts` for `make test-full`."""
    answers = {}
    for name, recipe in recipes.items():
        chosen = cuts[name] + (more_cuts[name] if config.getoption("--full") else [])
        alone = one_rank(recipe)
        answers[name] = Found(alone, layouts(recipe, chosen, replay=alone.ranks[0].routing))
    return answers


def cases(cuts: dict[str, list[ParallelConfig]], more_cuts: dict[str, list[ParallelConfig]]) -> list[Any]:
    """Pairs of model and layout to parametrize with; those of `more_cuts` for `make test-full`."""
    each, more = (
        [(model, name_of(parallel)) for model, parallels in chosen.items() for parallel in parallels]
        for chosen in (cuts, more_cuts)
    )
    return [*each, *(pytest.param(*case, marks=pytest.mark.full) for case in more)]


def full(values: Iterable[str]) -> list[Any]:
    """To parametrize with, for `make test-full`."""
    return [pytest.param(value, marks=pytest.mark.full) for value in values]


def rank_steps(
    place: Place,
    recipes: Sequence[Recipe],
    num_steps: int,
    replay: Sequence[Picks] | None,
    is_synthetic: bool,  # noqa: FBT001 (on_ranks passes by position)
) -> list[RankSteps]:
    """Runs on every rank: one layout after the other. One rank writes its routing down."""
    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe, is_synthetic=is_synthetic)
        found.append(_steps(trainer, num_steps, replay))
        trainer.close()
    return found


def _steps(trainer: Trainer, num_steps: int, replay: Sequence[Picks] | None) -> RankSteps:
    engine, found = trainer.engine, RankSteps()
    records = replay is None and trainer.layout.world_size == 1
    for step in range(num_steps):
        if replay is not None:
            engine.replay_routing({name: torch.from_numpy(picks) for name, picks in replay[step].items()})
        elif records:
            engine.record_routing()
        gradients = trainer.forward_backward(step)
        if step == 0:
            found.gradients.extend(pieces_of(engine.gradients()))
        if records:
            found.routing.append({name: picks.numpy() for name, picks in engine.recorded_routing().items()})
        trainer.apply(gradients, step)
        found.curve.append((gradients.loss, gradients.norm))
        found.multi_token_losses.append(gradients.multi_token_loss)
    found.curve.append(trainer.evaluate(HELD_OUT_SEQUENCES))
    found.bias.update(selection_bias(engine))
    return found


def selection_bias(engine: Any) -> dict[str, list[float]]:
    """By layer of this rank."""
    shards = (shard for shard in engine.shards() if shard.block.name.endswith("expert_bias"))
    return {shard.block.name: shard.tensors["weight"].tolist() for shard in shards}
