"""Any layout gives the one-rank answer: 20 steps from the same weights, on the same tokens.

fp32: relative difference of every loss and gradient norm at most 1e-5. All layouts of one size share their processes.
"""

from dataclasses import dataclass

import pytest
import torch

from mai.parallel.place import Place
from mai.recipe import Recipe
from tests.corpus import changed
from tests.ranks import on_ranks

STEPS = 20
TOLERANCE = 1e-5
HELD_OUT = 64


@dataclass(frozen=True)
class Cut:
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence: bool = False

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        return f"tensor{self.tensor}{'_sequence' if self.sequence else ''}-pipeline{self.pipeline}-data{self.data}"


ONE_RANK = Cut()
CUTS = [
    Cut(data=2),
    Cut(tensor=2),
    Cut(tensor=2, sequence=True),
    Cut(pipeline=2),
    Cut(pipeline=4),
    Cut(tensor=2, pipeline=2, sequence=True),
    Cut(pipeline=2, data=2),
    Cut(tensor=2, pipeline=2, data=2),
    Cut(tensor=2, pipeline=2, data=2, sequence=True),
]


def curves(place: Place, recipe: Recipe, cuts: list[Cut]) -> list[list[tuple[float, float]]]:
    """Runs on every rank: loss and gradient norm of each step, for one layout after the other; last of all the
    held-out loss and its number of tokens."""
    from mai.data.loader import batch_positions, held_out_sequences, open_dataset, training_sequences
    from mai.engine.device import open_device
    from mai.engine.engine import Engine
    from mai.engine.groups import build_groups, destroy_groups, join_world
    from mai.objective import pretrain
    from mai.optimizer.schedule import learning_rate_at
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    dataset = open_dataset(recipe)
    sequences, held_out = training_sequences(dataset, recipe), held_out_sequences(dataset, recipe)
    found = []
    for cut in cuts:
        cut_recipe = changed(
            recipe,
            parallel={"tensor": cut.tensor, "pipeline": cut.pipeline, "data": cut.data, "sequence": cut.sequence},
        )
        layout = Layout.of(cut_recipe.parallel, world_size=place.world_size)
        engine = Engine(cut_recipe, layout, build_groups(layout, timeout_seconds=60), device)
        curve = []
        for step in range(STEPS):
            positions = batch_positions(
                step * recipe.batch_sequences,
                batch_sequences=recipe.batch_sequences,
                data_rank=engine.groups.data_rank,
                data_ranks=layout.data,
            )
            gradients = engine.forward_backward(pretrain.batch_at(sequences, positions), pretrain.loss)
            rate = learning_rate_at(step, optimizer=recipe.optimizer, steps=STEPS)
            engine.apply(gradients, learning_rate=rate)
            curve.append((gradients.loss, gradients.norm))
        share = batch_positions(0, batch_sequences=HELD_OUT, data_rank=engine.groups.data_rank, data_ranks=layout.data)
        curve.append(engine.evaluate(pretrain.batch_at(held_out, share), pretrain.loss))
        found.append(curve)
        destroy_groups()
    return found


@pytest.fixture(scope="module")
def fp32_curves(prepared: Recipe) -> dict[Cut, list[tuple[float, float]]]:
    found = {}
    for ranks in sorted({cut.ranks for cut in [ONE_RANK, *CUTS]}):
        cuts = [cut for cut in [ONE_RANK, *CUTS] if cut.ranks == ranks]
        answers = on_ranks(ranks, curves, prepared, cuts)
        assert all(answer == answers[0] for answer in answers), "ranks disagree about loss or norm"
        found.update(zip(cuts, answers[0], strict=True))
    return found


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_layout_gives_the_one_rank_losses_gradient_norms_and_held_out_loss(
    cut: Cut, fp32_curves: dict[Cut, list[tuple[float, float]]]
) -> None:
    for step, (ours, one_rank) in enumerate(zip(fp32_curves[cut], fp32_curves[ONE_RANK], strict=True)):
        assert ours == pytest.approx(one_rank, rel=TOLERANCE, abs=0), f"step {step}"


def test_the_model_learns_in_these_steps(fp32_curves: dict[Cut, list[tuple[float, float]]]) -> None:
    first, last = fp32_curves[ONE_RANK][0], fp32_curves[ONE_RANK][STEPS - 1]
    assert last[0] < first[0] - 0.3, "a parity of models that do not move proves little"


def test_bf16_stays_close_to_fp32_at_one_rank_and_in_3d(
    prepared: Recipe, fp32_curves: dict[Cut, list[tuple[float, float]]]
) -> None:
    """bf16 keeps 8 bits of mantissa: losses within 1% of fp32 over the 20 steps."""
    recipe = changed(prepared, precision={"compute": "bf16"})
    reference = torch.tensor([loss for loss, _ in fp32_curves[ONE_RANK][:STEPS]])
    for cut in (ONE_RANK, Cut(tensor=2, pipeline=2, data=2, sequence=True)):
        losses = torch.tensor([loss for loss, _ in on_ranks(cut.ranks, curves, recipe, [cut])[0][0][:STEPS]])
        torch.testing.assert_close(losses, reference, rtol=1e-2, atol=0)
        assert not torch.equal(losses, reference), "this was not bf16"


def test_one_rank_equals_a_plain_pytorch_loop(prepared: Recipe) -> None:
    ours, plain = on_ranks(1, ours_and_plain, prepared)[0]
    assert ours == [pytest.approx(pair, rel=1e-5) for pair in plain]


def ours_and_plain(place: Place, recipe: Recipe) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Runs on one rank: the curve of `mai`, and of benchmarks/plain_llama.py from the same weights."""
    from benchmarks.plain_llama import PlainLoop, plain_name
    from mai.data.loader import open_dataset, training_sequences
    from mai.engine.device import open_device
    from mai.engine.engine import Engine
    from mai.engine.groups import build_groups, join_world
    from mai.objective import pretrain
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    layout = Layout(tensor=1, pipeline=1, data=1)
    engine = Engine(recipe, layout, build_groups(layout, timeout_seconds=60), device)
    plain = PlainLoop(recipe, device=device.torch_device)
    parameters = dict(plain.model.named_parameters())
    for shard in engine.shards():
        parameter = parameters[plain_name(shard.block.name)]
        box = tuple(slice(o, o + n) for o, n in zip(shard.block.offset, shard.block.shape, strict=True))
        parameter.data[box] = shard.tensors["weight"].view(shard.block.shape)
    sequences = training_sequences(open_dataset(recipe), recipe)
    ours, theirs = [], []
    for step in range(10):
        first = step * recipe.batch_sequences
        batch = pretrain.batch_at(sequences, range(first, first + recipe.batch_sequences))
        gradients = engine.forward_backward(batch, pretrain.loss)
        engine.apply(gradients, learning_rate=1e-3)
        ours.append((gradients.loss, gradients.norm))
        theirs.append(plain.step(batch.tokens_BS, batch.targets_BS, learning_rate=1e-3))
    return ours, theirs
