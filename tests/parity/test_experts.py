"""A mixture of experts gives the one-rank answer in every layout: 20 steps from the same weights, on the same tokens.

fp32: relative difference of every loss and gradient norm at most 1e-5, and of every gradient of the first step as a
whole; the selection bias is the same to the last bit. Where two experts score almost alike, rounding decides where a
token goes, so all layouts replay the routing of one rank. Without it most of them agree too, as long as no token
changes its expert.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.parallel.place import Place
from mai.recipe import MixtureOfExperts, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.steps import (
    Found,
    Piece,
    beside_one_rank,
    cases,
    full,
    layouts,
    one_rank,
    pieces_of,
    relative_differences,
    selection_bias,
    whole_tensors,
)
from tests.parity.trainer import STEPS, name_of, num_ranks, open_trainer
from tests.ranks import on_ranks

TOLERANCE = 1e-5
MICRO_BATCH_SEQUENCES = 2
BATCH_SEQUENCES = 8

FOUR = {"num_experts": 4, "experts_per_token": 2, "ffn_hidden_size": 64}
BALANCED_BY_BIAS = MixtureOfExperts(
    **FOUR,
    scores="sigmoid",
    routed_scale=2.0,
    shared_ffn_hidden_size=32,
    num_dense_layers=1,
    bias_update_rate=1e-3,
    auxiliary_loss_weight=1e-3,
)
MODELS = {
    "sequence": MixtureOfExperts(**FOUR),
    "micro_batch": MixtureOfExperts(**FOUR, auxiliary_loss="micro_batch", auxiliary_loss_weight=0.1),
    "bias": BALANCED_BY_BIAS,
}


def cut(**axes: Any) -> ParallelConfig:
    return ParallelConfig(**{"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES, **axes})


SPLIT = {"tensor": 2, "sequence": True}
CUTS = {
    "sequence": [cut(**SPLIT), cut(**SPLIT, data=2, expert=2, expert_tensor=2)],
    "micro_batch": [cut(**SPLIT, context=2, expert=2)],
    "bias": [cut(**SPLIT, pipeline=2, virtual_stages=2, expert=2, recompute=("layer",))],
}
MORE_CUTS = {
    "sequence": [cut(data=2, expert=2), cut(data=4, expert=2), cut(data=4, expert=4), cut(**SPLIT, expert=2)],
    "micro_batch": [cut(context=2, expert=2), cut(**SPLIT, expert_tensor=2), cut(data=4, expert=2, sharding_ranks=2)],
    "bias": [
        cut(pipeline=2, data=2, expert=2),
        cut(**SPLIT, expert=2, recompute=("experts", "norms")),
        cut(**SPLIT, expert=2, recompute=("shared_experts", "feed_forward")),
    ],
}
CASES = cases(CUTS, MORE_CUTS)


def experts_recipe(prepared: Recipe, experts: MixtureOfExperts) -> Recipe:
    return changed(
        prepared,
        # Four layers only where they are cut into four parts.
        model={"feed_forward": experts, "num_layers": 4 if experts.num_dense_layers else 2},
        parallel={"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES},
        train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length},
    )


@pytest.fixture(scope="module")
def found(prepared: Recipe, pytestconfig: pytest.Config) -> dict[str, Found]:
    recipes = {name: experts_recipe(prepared, experts) for name, experts in MODELS.items()}
    return beside_one_rank(recipes, CUTS, MORE_CUTS, pytestconfig)


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_the_one_rank_losses_and_gradient_norms(model: str, layout: str, found: dict[str, Found]) -> None:
    pairs = zip(found[model].layouts[layout].curve, found[model].one_rank.curve, strict=True)
    for step, (ours, theirs) in enumerate(pairs):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0), f"step {step}"


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_every_gradient_of_the_first_step(model: str, layout: str, found: dict[str, Found]) -> None:
    differences = relative_differences(found[model].layouts[layout].gradients(), found[model].one_rank.gradients())
    assert not {name: difference for name, difference in differences.items() if not difference <= TOLERANCE}


@pytest.mark.parametrize("layout", [*map(name_of, CUTS["bias"]), *full(map(name_of, MORE_CUTS["bias"]))])
def test_the_selection_bias_moves_alike_in_every_layout_to_the_last_bit(layout: str, found: dict[str, Found]) -> None:
    one_rank_bias = found["bias"].one_rank.bias
    assert found["bias"].layouts[layout].bias == one_rank_bias
    assert len(one_rank_bias) == 3, "three of the four layers have experts"
    assert all(any(abs(value) > 0 for value in bias) for bias in one_rank_bias.values())


def test_the_models_learn_in_these_steps(found: dict[str, Found]) -> None:
    for answers in found.values():
        curve = answers.one_rank.curve
        assert curve[STEPS - 1][0] < curve[0][0] - 0.2, "a parity of models that do not move proves little"


def test_expert_ranks_agree_without_replay_while_no_token_changes_its_expert(
    prepared: Recipe, found: dict[str, Found]
) -> None:
    """The first steps: weights differ by rounding only."""
    parallel = cut(data=2, expert=2)
    ours = layouts(experts_recipe(prepared, MODELS["sequence"]), [parallel], replay=None, num_steps=3)
    steps = zip(ours[name_of(parallel)].curve[:3], found["sequence"].one_rank.curve[:3], strict=True)
    assert all(mine == pytest.approx(theirs, rel=TOLERANCE, abs=0) for mine, theirs in steps)


def test_replay_sends_tokens_where_it_is_told(prepared: Recipe, found: dict[str, Found]) -> None:
    other = [{name: 3 - picks for name, picks in found["sequence"].one_rank.ranks[0].routing[0].items()}]
    parallel = cut(data=2, expert=2)
    answers = layouts(experts_recipe(prepared, MODELS["sequence"]), [parallel], replay=other, num_steps=1)
    assert answers[name_of(parallel)].curve[0] != pytest.approx(found["sequence"].one_rank.curve[0], rel=1e-4)


def test_the_balancing_loss_of_sequences_is_the_same_for_every_micro_batch(prepared: Recipe) -> None:
    recipe = experts_recipe(prepared, replace(MODELS["sequence"], auxiliary_loss_weight=1.0))
    by_fours, by_ones = (
        one_rank(changed(recipe, parallel={"micro_batch_sequences": size}), num_steps=1).gradients() for size in (4, 1)
    )
    assert max(relative_differences(by_fours, by_ones).values()) <= TOLERANCE


def bias_after_a_skipped_and_an_applied_step(place: Place, recipe: Recipe) -> list[dict[str, list[float]]]:
    """Runs on one rank: the selection bias at first, after a step that is not applied, and after one that is."""
    trainer = open_trainer(place, recipe)
    biases = [selection_bias(trainer.engine)]
    trainer.forward_backward(0)
    biases.append(selection_bias(trainer.engine))
    trainer.engine.apply(trainer.forward_backward(1), learning_rate=0.0)
    biases.append(selection_bias(trainer.engine))
    return biases


def test_a_skipped_step_moves_no_selection_bias_and_leaves_nothing_to_the_next(prepared: Recipe) -> None:
    recipe = experts_recipe(prepared, BALANCED_BY_BIAS)
    first, skipped, once = on_ranks(1, bias_after_a_skipped_and_an_applied_step, recipe)[0]
    assert first == skipped
    assert all(value == 0 for bias in first.values() for value in bias)
    rate = BALANCED_BY_BIAS.bias_update_rate
    assert all(abs(value) in (0, pytest.approx(rate)) for bias in once.values() for value in bias)
    assert any(value != 0 for bias in once.values() for value in bias)


def save_after_two_steps(place: Place, recipe: Recipe, checkpoints: Path) -> tuple[list[Piece], tuple[float, float]]:
    """Runs on every rank: what it holds after two steps and saves, and loss and gradient norm of the third."""
    trainer = open_trainer(place, recipe)
    trainer.curve(range(2))
    trainer.save(checkpoints, step=2)
    return pieces_of(trainer.engine.shards()), trainer.step(2)


def load(place: Place, recipe: Recipe, checkpoints: Path) -> tuple[list[Piece], tuple[float, float]]:
    """Runs on every rank: what it holds after loading, and loss and gradient norm of the third step."""
    trainer = open_trainer(place, recipe)
    step = trainer.load(checkpoints)
    return pieces_of(trainer.engine.shards()), trainer.step(step)


@dataclass(frozen=True)
class Saved:
    folder: Path
    tensors: dict[str, torch.Tensor]
    third_step: tuple[float, float]


@pytest.fixture(scope="module")
def saved(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of pipeline 2 x data 2 with two expert ranks, and what was in it."""
    folder = tmp_path_factory.mktemp("experts") / "checkpoints"
    recipe = changed(experts_recipe(prepared, BALANCED_BY_BIAS), parallel={"pipeline": 2, "data": 2, "expert": 2})
    answers = on_ranks(4, save_after_two_steps, recipe, folder)
    return Saved(folder, whole_tensors(piece for held, _ in answers for piece in held), answers[0][1])


@pytest.mark.parametrize(
    "parallel", [cut(), cut(**SPLIT), cut(**SPLIT, data=2, expert=2, expert_tensor=2)], ids=name_of
)
def test_another_layout_loads_every_expert_and_bias_bit_for_bit_and_goes_on(
    parallel: ParallelConfig, prepared: Recipe, saved: Saved
) -> None:
    recipe = replace(experts_recipe(prepared, BALANCED_BY_BIAS), parallel=parallel)
    answers = on_ranks(num_ranks(parallel), load, recipe, saved.folder)
    loaded = whole_tensors(piece for held, _ in answers for piece in held)
    assert loaded.keys() == saved.tensors.keys()
    assert "decoder.layers.3.mlp.router.expert_bias.weight" in loaded
    assert [name for name in loaded if not torch.equal(loaded[name], saved.tensors[name])] == []
    assert answers[0][1] == pytest.approx(saved.third_step, rel=TOLERANCE, abs=0)
