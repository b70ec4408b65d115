"""Groups of parameters that learn otherwise, and functions between the backward pass and the update: the same in every
layout, and what each says is what happens.

fp32, over 3 steps: every loss and norm within 1e-5 of one rank's, and weights, root mean square, within 1e-4 of what
the updates may move them (single elements differ by more, where AdamW divides a rounding by a tiny gradient).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.parallel.place import Place
from mai.recipe import MixtureOfExperts, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.test_reshard import whole_tensors
from tests.parity.trainer import name_of, num_ranks, open_trainer
from tests.ranks import on_ranks

TOLERANCE = 1e-5
STEPS = 3
MOVED = 1e-3 * (1 + 2 + 3) / 10
"""The rates of these steps of the warm-up, summed."""
GROUPS = ("decoder.layers.0.*:frozen", "embedding.*:rate=0.5:decay=0", "*layernorm*:decay=0.3")

ONE_RANK = ParallelConfig(data=1, micro_batch_sequences=4)
LAYOUTS = [
    ParallelConfig(tensor=2, sequence=True, data=2, micro_batch_sequences=4),
    ParallelConfig(pipeline=2, virtual_stages=2, data=2, micro_batch_sequences=4),
    ParallelConfig(tensor=2, data=2, sharding="full", micro_batch_sequences=4),
]


@dataclass(frozen=True)
class Told:
    """What every rank was told, and what the checkpoints before and after hold."""

    steps: list[tuple[float, float, float, dict[str, float]]]
    """Loss, norm before the function, norm after it, norms by layer."""
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


def layer(name: str) -> str | None:
    """Of what lies in a layer; the rest is left out."""
    found = re.match(r"decoder\.layers\.\d+", name)
    return found and found[0]


def steps(place: Place, recipes: list[Recipe], folder: Path) -> list[list[Any]]:
    """Runs on every rank."""
    told = []
    for number, recipe in enumerate(recipes):
        trainer = open_trainer(place, recipe)
        trainer.save(folder / str(number) / "before", step=0)
        of_layout = []
        for step in range(STEPS):
            gradients = trainer.forward_backward(step)
            opened = trainer.engine.open_gradients(gradients, step=step + 1)
            norms = opened.norms(layer)
            opened.scale(lambda name: 0.5 if "linear_fc1" in name else 1.0)
            anew = trainer.engine.with_norm_anew(gradients)
            trainer.apply(anew, step)
            of_layout.append((gradients.loss, gradients.norm, anew.norm, norms))
        trainer.save(folder / str(number) / "after", step=STEPS)
        trainer.close()
        told.append(of_layout)
    return told


def weights(checkpoints: Path) -> dict[str, torch.Tensor]:
    """By parameter."""
    (checkpoint,) = checkpoints.glob("step-*")
    whole = whole_tensors(checkpoint)
    return {name.removesuffix(".weight"): whole[name] for name in whole if name.endswith(".weight.weight")}


def told(recipe: Recipe, layouts: list[ParallelConfig], folder: Path) -> list[Told]:
    """All of one size."""
    recipes = [replace(recipe, parallel=parallel) for parallel in layouts]
    answers = on_ranks(num_ranks(layouts[0]), steps, recipes, folder)
    assert all(answer == answers[0] for answer in answers), "ranks were told different numbers"
    return [
        Told(of_layout, weights(folder / str(number) / "before"), weights(folder / str(number) / "after"))
        for number, of_layout in enumerate(answers[0])
    ]


@pytest.fixture(scope="module")
def grouped(prepared: Recipe) -> Recipe:
    return changed(prepared, optimizer={"groups": GROUPS, "learning_rate": 1e-3})


@pytest.fixture(scope="module")
def one_rank(grouped: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told(grouped, [ONE_RANK], tmp_path_factory.mktemp("one"))[0]


@pytest.fixture(scope="module")
def of_layouts(grouped: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    return told(grouped, LAYOUTS, tmp_path_factory.mktemp("four"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LAYOUTS)), ids=[name_of(parallel) for parallel in LAYOUTS])
def test_every_layout_tells_and_does_what_one_rank_does(number: int, of_layouts: list[Told], one_rank: Told) -> None:
    found = of_layouts[number]
    for (*numbers, norms), (*expected, expected_norms) in zip(found.steps, one_rank.steps, strict=True):
        assert numbers == pytest.approx(expected, rel=TOLERANCE)
        assert norms == pytest.approx(expected_norms, rel=TOLERANCE)
    for name, weight in one_rank.after.items():
        assert float((found.after[name] - weight).square().mean().sqrt()) <= 1e-4 * MOVED, name


def test_what_is_frozen_stays_to_the_bit_and_does_not_count_in_the_norm(one_rank: Told) -> None:
    frozen = {name for name in one_rank.before if name.startswith("decoder.layers.0.")}
    assert frozen
    for name, weight in one_rank.before.items():
        assert torch.equal(weight, one_rank.after[name]) == (name in frozen), name
    assert all(norms["decoder.layers.0"] == 0 for *_, norms in one_rank.steps)


def test_the_norms_of_layers_are_parts_of_the_whole_and_scaling_changes_it(one_rank: Told) -> None:
    for _, whole, after, norms in one_rank.steps:
        assert sum(norm**2 for norm in norms.values()) < whole**2
        assert 0.5 * whole < after < whole


def test_a_rate_is_a_share_of_the_step_s_rate(prepared: Recipe, tmp_path: Path) -> None:
    """AdamW's first updates move a weight by about the rate, whatever the gradient."""
    plain = changed(prepared, optimizer={"learning_rate": 1e-3, "weight_decay": 0.0})
    half = changed(plain, optimizer={"groups": ("embedding.*:rate=0.5",)})
    moved = []
    for name, recipe in (("plain", plain), ("half", half)):
        (found,) = told(recipe, [ONE_RANK], tmp_path / name)
        embedding = "embedding.word_embeddings.weight"
        moved.append(float((found.after[embedding] - found.before[embedding]).abs().max()))
    assert moved[1] == pytest.approx(0.5 * moved[0], rel=0.1)


def expert_tokens(place: Place, recipes: list[Recipe]) -> list[Any]:
    """Runs on every rank: how many tokens picked each expert, and the imbalance, of one step in each layout."""
    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe)
        gradients = trainer.forward_backward(0)
        found.append((dict(gradients.expert_tokens), gradients.expert_imbalance))
        trainer.close()
    return found


def test_every_layout_counts_the_tokens_of_each_expert_once(prepared: Recipe) -> None:
    experts = MixtureOfExperts(num_experts=4, experts_per_token=2, ffn_hidden_size=32, num_dense_layers=1)
    recipe = changed(prepared, model={"feed_forward": experts})
    layouts = [
        ParallelConfig(tensor=2, sequence=True, data=2, expert=2, micro_batch_sequences=4),
        ParallelConfig(pipeline=2, context=2, data=1, expert=2, recompute=("layer",), micro_batch_sequences=4),
    ]
    ((alone, imbalance),) = on_ranks(1, expert_tokens, [replace(recipe, parallel=ONE_RANK)])[0]
    assert list(alone) == [1, 2, 3]
    assert {sum(tokens) for tokens in alone.values()} == {recipe.train.batch_tokens * 2}
    assert imbalance == max(max(tokens) * 4 / sum(tokens) for tokens in alone.values()) > 1
    answers = on_ranks(4, expert_tokens, [replace(recipe, parallel=parallel) for parallel in layouts])
    assert answers == [[(alone, imbalance)] * 2] * 4
