"""Any layout gives the one-rank answer: 20 steps from the same weights, on the same tokens.

fp32: relative difference of every loss and gradient norm at most 1e-5. All layouts of one size share their processes.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.trainer import BATCH_SEQUENCES, HELD_OUT_SEQUENCES, STEPS, Curve, name_of, num_ranks, open_trainer
from tests.ranks import on_ranks

TOLERANCE = 1e-5


def cut(**axes: Any) -> ParallelConfig:
    return ParallelConfig(**{"data": 1, "micro_batch_sequences": 4, **axes})


ONE_RANK = cut()
IN_3D = cut(tensor=2, pipeline=2, data=2, sequence=True)
CUTS = [
    cut(data=2),
    cut(tensor=2),
    cut(tensor=2, sequence=True),
    cut(pipeline=2),
    cut(pipeline=4),
    cut(tensor=2, pipeline=2, sequence=True),
    cut(pipeline=2, data=2),
    cut(tensor=2, pipeline=2, data=2),
    IN_3D,
]


def curves(place: Place, recipe: Recipe, cuts: list[ParallelConfig]) -> list[Curve]:
    """Runs on every rank: loss and gradient norm of each step, for one layout after the other; last of all the
    held-out loss and its number of tokens."""
    found = []
    for parallel in cuts:
        trainer = open_trainer(place, replace(recipe, parallel=parallel))
        found.append([*trainer.curve(range(STEPS)), trainer.evaluate(HELD_OUT_SEQUENCES)])
        trainer.close()
    return found


@pytest.fixture(scope="module")
def recipe(prepared: Recipe) -> Recipe:
    return changed(prepared, train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length})


@pytest.fixture(scope="module")
def fp32_curves(recipe: Recipe) -> dict[ParallelConfig, Curve]:
    found = {}
    for ranks in sorted({num_ranks(parallel) for parallel in [ONE_RANK, *CUTS]}):
        cuts = [parallel for parallel in [ONE_RANK, *CUTS] if num_ranks(parallel) == ranks]
        answers = on_ranks(ranks, curves, recipe, cuts)
        assert all(answer == answers[0] for answer in answers), "ranks disagree about loss or norm"
        found.update(zip(cuts, answers[0], strict=True))
    return found


@pytest.mark.parametrize("parallel", CUTS, ids=name_of)
def test_layout_gives_the_one_rank_losses_gradient_norms_and_held_out_loss(
    parallel: ParallelConfig, fp32_curves: dict[ParallelConfig, Curve]
) -> None:
    for step, (ours, one_rank) in enumerate(zip(fp32_curves[parallel], fp32_curves[ONE_RANK], strict=True)):
        assert ours == pytest.approx(one_rank, rel=TOLERANCE, abs=0), f"step {step}"


def test_fused_and_plain_operations_give_the_same_losses(
    recipe: Recipe, fp32_curves: dict[ParallelConfig, Curve]
) -> None:
    ((plain,),) = on_ranks(1, curves, replace(recipe, kernels="reference"), [ONE_RANK])
    for fused, expected in zip(fp32_curves[ONE_RANK], plain, strict=True):
        assert fused == pytest.approx(expected, rel=TOLERANCE)


def test_the_model_learns_in_these_steps(fp32_curves: dict[ParallelConfig, Curve]) -> None:
    first, last = fp32_curves[ONE_RANK][0], fp32_curves[ONE_RANK][STEPS - 1]
    assert last[0] < first[0] - 0.3, "a parity of models that do not move proves little"


def test_bf16_stays_close_to_fp32_at_one_rank_and_in_3d(
    recipe: Recipe, fp32_curves: dict[ParallelConfig, Curve]
) -> None:
    """bf16 keeps 8 bits of mantissa: losses within 1% of fp32 over the 20 steps."""
    in_bf16 = changed(recipe, precision={"compute": "bf16"})
    reference = torch.tensor([loss for loss, _ in fp32_curves[ONE_RANK][:STEPS]])
    for parallel in (ONE_RANK, IN_3D):
        found = on_ranks(num_ranks(parallel), curves, in_bf16, [parallel])[0][0]
        losses = torch.tensor([loss for loss, _ in found[:STEPS]])
        torch.testing.assert_close(losses, reference, rtol=1e-2, atol=0)
        assert not torch.equal(losses, reference), "this was not bf16"


def test_one_rank_equals_a_plain_pytorch_loop(recipe: Recipe) -> None:
    ours, plain = on_ranks(1, ours_and_plain, recipe)[0]
    assert ours == [pytest.approx(pair, rel=1e-5) for pair in plain]


def ours_and_plain(place: Place, recipe: Recipe) -> tuple[Curve, Curve]:
    """Runs on one rank: the curve of `mai`, and of benchmarks/plain_llama.py from the same weights."""
    from benchmarks.plain_llama import PlainLlama, PlainLoop, plain_name
    from mai.objective.pretrain import Pretrain

    trainer = open_trainer(place, replace(recipe, parallel=ONE_RANK))
    model = PlainLlama(recipe.model, max_length=recipe.data.sequence_length)
    plain = PlainLoop(recipe, model, device=torch.device("cpu"))
    parameters = dict(plain.model.named_parameters())
    for shard in trainer.engine.shards():
        parameter = parameters[plain_name(shard.block.name)]
        box = tuple(slice(o, o + n) for o, n in zip(shard.block.offset, shard.block.shape, strict=True))
        parameter.data[box] = shard.tensors["weight"].view(shard.block.shape)
    ours, theirs = [], []
    for step in range(10):
        gradients = trainer.forward_backward(step)
        trainer.engine.apply(gradients, learning_rate=1e-3)
        ours.append((gradients.loss, gradients.norm))
        first = step * recipe.batch_sequences
        batch = Pretrain().batch(trainer.training, range(first, first + recipe.batch_sequences))
        theirs.append(plain.step(batch.tokens_BS, batch.targets_BS, learning_rate=1e-3))
    return ours, theirs
