"""Weights, gradients and moments shared out over the data ranks (parallel.sharding=full): the same answer as one rank,
and a rank holds its rows and nothing else. The parity matrix holds more layouts.

fp32: relative difference of every loss and gradient norm at most 1e-5 over 20 steps.
"""

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.model.shapes import parameters
from mai.parallel.place import Place
from mai.recipe import MixtureOfExperts, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.test_reshard import whole_tensors
from tests.parity.trainer import (
    BATCH_SEQUENCES,
    HELD_OUT_SEQUENCES,
    Curve,
    curves,
    load_save_and_train,
    name_of,
    num_ranks,
    open_trainer,
)
from tests.ranks import on_ranks

TOLERANCE = 1e-5
SAVED_STEP = 4
MORE_STEPS = 4


def cut(**axes: Any) -> ParallelConfig:
    """Two micro-batches where two ranks share the batch: gradients add up."""
    return ParallelConfig(**{"data": 1, "sharding": "full", "micro_batch_sequences": 4, **axes})


ONE_RANK = cut(sharding="optimizer")
CUTS = [
    cut(tensor=2, sequence=True, data=2),
    cut(pipeline=2, virtual_stages=2, data=2),
    cut(context=2, data=2, sharding_ranks=2),
]


def curves_of(recipe: Recipe, cuts: list[ParallelConfig]) -> list[Curve]:
    """All of one size."""
    answers = on_ranks(num_ranks(cuts[0]), curves, [replace(recipe, parallel=parallel) for parallel in cuts])
    assert all(answer == answers[0] for answer in answers), "ranks disagree about loss or norm"
    return answers[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def few(prepared: Recipe) -> Recipe:
    """A batch that takes little time."""
    return changed(prepared, train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length})


@pytest.fixture(scope="module")
def one_rank(few: Recipe) -> Curve:
    return curves_of(few, [ONE_RANK])[0]


@pytest.fixture(scope="module")
def fp32_curves(few: Recipe) -> dict[ParallelConfig, Curve]:
    return dict(zip(CUTS, curves_of(few, CUTS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", CUTS, ids=name_of)
def test_full_sharding_gives_the_one_rank_losses_and_gradient_norms(
    parallel: ParallelConfig, fp32_curves: dict[ParallelConfig, Curve], one_rank: Curve
) -> None:
    _assert_equal(fp32_curves[parallel], one_rank)


def _assert_equal(ours: Curve, theirs: Curve) -> None:
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our == pytest.approx(their, rel=TOLERANCE, abs=0), f"step {step}"


def test_rows_that_do_not_divide_give_the_one_rank_curve_and_some_ranks_may_hold_none(few: Recipe) -> None:
    """Four ranks share the 9 rows of a norm as 3, 3, 3, 0, and the 134 of linear_fc1 as 34, 34, 34, 32."""
    recipe = changed(few, model={"hidden_size": 9, "ffn_hidden_size": 67})
    _assert_equal(curves_of(recipe, [cut(data=4)])[0], curves_of(recipe, [ONE_RANK])[0])


def test_a_matrix_of_three_experts_is_shared_out_over_four_ranks(few: Recipe) -> None:
    """By rows, not by experts: the 402 of linear_fc1 as 101, 101, 101, 99."""
    experts = MixtureOfExperts(num_experts=3, experts_per_token=2, ffn_hidden_size=67)
    recipe = changed(few, model={"feed_forward": experts})
    _assert_equal(curves_of(recipe, [cut(data=4)])[0], curves_of(recipe, [ONE_RANK])[0])


def test_an_embedding_that_is_the_output_layer_too_is_one_over_two_stages(few: Recipe) -> None:
    recipe = changed(few, model={"tied_embeddings": True})
    one_rank = curves_of(recipe, [ONE_RANK])[0]
    for curve in curves_of(recipe, [cut(pipeline=2, data=2), cut(pipeline=2, data=2, sharding="optimizer")]):
        _assert_equal(curve, one_rank)


def test_in_bf16_both_shardings_compute_with_the_same_rounded_weights(few: Recipe) -> None:
    """fp32 weights, sums of gradients and moments: on two ranks the losses are the same to the last bit.

    With plain operations: the fused weight gradient, which full sharding cannot have, is not rounded to bf16 before it
    is added."""
    recipe = replace(changed(few, precision={"compute": "bf16"}), kernels="reference")
    full, zero = curves_of(recipe, [cut(data=2), cut(data=2, sharding="optimizer")])
    assert [loss for loss, _ in full] == [loss for loss, _ in zero]
    assert [norm for _, norm in full] == pytest.approx([norm for _, norm in zero], rel=1e-9, abs=0)


@dataclass(frozen=True)
class Held:
    answers_for: int
    """Elements of the rank's shards."""
    in_memory: int
    """Elements of its parameters after a step and an evaluation."""
    loss: float
    """Of an evaluation after the last norm was set to zero from outside, and 7 updates were said to be done."""
    updates: int


def held_and_loaded(place: Place, recipe: Recipe) -> Held:
    """Runs on every rank: a step, an evaluation, a load, an evaluation."""
    trainer = open_trainer(place, replace(recipe, parallel=cut(data=2)))
    engine = trainer.engine
    trainer.step(0)
    trainer.evaluate(HELD_OUT_SEQUENCES)
    in_memory = sum(rows.to_local().numel() for module in engine._virtual_stages for rows in module.parameters())
    for shard in engine.shards():
        if shard.block.name == "decoder.final_layernorm.weight":
            shard.tensors["weight"].zero_()
    engine.finish_load(updates=7)
    loss, tokens = trainer.evaluate(HELD_OUT_SEQUENCES)
    return Held(sum(shard.stop - shard.start for shard in engine.shards()), in_memory, loss / tokens, engine.updates)


@pytest.fixture(scope="module")
def held(few: Recipe) -> list[Held]:
    return on_ranks(2, held_and_loaded, few)


def test_between_steps_each_of_two_ranks_holds_half_of_the_weights(few: Recipe, held: list[Held]) -> None:
    half = sum(math.prod(parameter.shape) for parameter in parameters(few.model)) // 2
    assert [(rank.answers_for, rank.in_memory) for rank in held] == [(half, half)] * 2


def test_what_is_loaded_after_an_evaluation_is_what_the_next_one_computes_with(few: Recipe, held: list[Held]) -> None:
    """Where the last norm is zero, every token is as likely as any other."""
    for rank in held:
        assert rank.loss == pytest.approx(math.log(few.model.vocab_size), rel=1e-6)
        assert rank.updates == 7


def train_with_warnings_of_views_as_errors(place: Place, recipes: list[Recipe]) -> None:
    """Runs on every rank."""
    for recipe in recipes:
        trainer = open_trainer(place, recipe)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="FSDP2-wrapped module")
            trainer.curve(range(1))
        trainer.close()


@pytest.mark.slow
def test_no_unit_gives_a_view_that_an_operation_in_place_could_take_the_gathering_of_weights_from(
    few: Recipe,
) -> None:
    """Transposing is a view where a micro-batch is one sequence, after the embedding and after the loss."""
    alone = replace(few, parallel=cut(data=2, micro_batch_sequences=1))
    tied = changed(alone, model={"tied_embeddings": True})
    on_ranks(2, train_with_warnings_of_views_as_errors, [alone, tied])


def train_and_save(place: Place, recipe: Recipe, out: Path) -> None:
    """Runs on every rank: the first steps, and a checkpoint of them."""
    trainer = open_trainer(place, recipe)
    trainer.curve(range(SAVED_STEP))
    trainer.save(out, step=SAVED_STEP)


@dataclass(frozen=True)
class Saved:
    folders: dict[ParallelConfig, Path]
    curves: dict[ParallelConfig, Curve]
    """Of the steps after the load."""


WRITER = cut(tensor=2, data=2)
READERS = [ONE_RANK, cut(data=4, sharding_ranks=2)]


@pytest.fixture(scope="module")
def saved(few: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """One layout writes, the next one reads that and writes again, and so on: full, then ZeRO-1, then hybrid."""
    folder = tmp_path_factory.mktemp("saved")
    folders = {parallel: folder / str(number) for number, parallel in enumerate([WRITER, *READERS])}
    on_ranks(4, train_and_save, replace(few, parallel=WRITER), folders[WRITER])
    found: dict[ParallelConfig, Curve] = {}
    for before, after in itertools.pairwise(folders):
        recipe = replace(few, parallel=after)
        answers = on_ranks(num_ranks(after), load_save_and_train, recipe, folders[before], folders[after], MORE_STEPS)
        found[after] = answers[0]
    return Saved(folders, found)


@pytest.mark.parametrize("parallel", READERS, ids=name_of)
def test_another_sharding_saves_what_it_loaded_bit_for_bit(parallel: ParallelConfig, saved: Saved) -> None:
    step = f"step-{SAVED_STEP:010d}"
    before, after = whole_tensors(saved.folders[WRITER] / step), whole_tensors(saved.folders[parallel] / step)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("parallel", READERS, ids=name_of)
def test_another_sharding_trains_on_like_the_unbroken_run_on_one_rank(
    parallel: ParallelConfig, saved: Saved, one_rank: Curve
) -> None:
    _assert_equal(saved.curves[parallel], one_rank[SAVED_STEP : SAVED_STEP + MORE_STEPS])
