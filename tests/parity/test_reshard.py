"""What one layout saved, every other one loads: bit for bit, and it trains on as if it had never been cut otherwise.

The checkpoint is that of step 10 of the `trained` run: TP2 x PP2 x DP2 with sequence parallelism.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mai.model.shapes import parameters
from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.corpus import changed
from tests.jobs import BATCH_TOKENS
from tests.ranks import on_ranks

SAVED_STEP = 10
MORE_STEPS = 5
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cut:
    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        return f"tensor{self.tensor}-pipeline{self.pipeline}-data{self.data}"


CUTS = [Cut(), Cut(data=2), Cut(tensor=2), Cut(pipeline=4)]


def whole_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every state of every tensor, put together from the files by the manifest alone."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    files = {name: load_file(checkpoint / name) for name in manifest["files"]}
    whole: dict[str, Tensor] = {}
    for name, entry in manifest["tensors"].items():
        for state in manifest["states"]:
            out = torch.full(entry["shape"], math.nan)
            boxes: dict[tuple[int, ...], Tensor] = {}
            for piece in entry["pieces"]:
                box = boxes.setdefault(tuple(piece["offset"]), torch.full((math.prod(piece["shape"]),), math.nan))
                box[piece["start"] : piece["stop"]] = files[piece["file"]][f"{piece['key']}.{state}"]
                place = tuple(slice(o, o + n) for o, n in zip(piece["offset"], piece["shape"], strict=True))
                out[place] = box.view(piece["shape"])
            whole[f"{name}.{state}"] = out
    return whole


def load_save_and_train(place: Place, recipe: Recipe, saved: Path, out: Path) -> list[tuple[float, float]]:
    """Runs on every rank: load, save again, and train some steps more."""
    from mai.engine.device import open_device
    from mai.engine.groups import join_world

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    engine, layout = _engine(recipe, place, device)
    manifest = _load(engine, saved)
    _save(engine, manifest, out, place)
    return _train(engine, recipe, layout, first_step=manifest.progress.step)


def _engine(recipe: Recipe, place: Place, device: Any) -> Any:
    from mai.engine.engine import Engine
    from mai.engine.groups import build_groups
    from mai.parallel.layout import Layout

    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    return Engine(recipe, layout, build_groups(layout, timeout_seconds=60), device), layout


def _load(engine: Any, checkpoints: Path) -> Any:
    from mai.checkpoint.resume import resume

    manifest = resume(checkpoints, engine.shards(), check=lambda _: None, leave_out=lambda *_: None, timeout_seconds=60)
    assert manifest is not None
    engine.finish_load(updates=manifest.progress.updates)
    return manifest


def _save(engine: Any, manifest: Any, checkpoints: Path, place: Place) -> None:
    from mai.checkpoint.save import SaveContext, save

    context = SaveContext(
        checkpoints=checkpoints,
        attempt=1,
        rank=place.rank,
        keep=1,
        layout={},
        recipe_fingerprint="",
        data_fingerprint="",
        timeout_seconds=60,
    )
    save(engine.shards(), manifest.progress, context)


def _train(engine: Any, recipe: Recipe, layout: Any, *, first_step: int) -> list[tuple[float, float]]:
    from mai.data.loader import batch_positions, open_dataset, training_sequences
    from mai.objective import pretrain
    from mai.optimizer.schedule import learning_rate_at

    sequences = training_sequences(open_dataset(recipe), recipe)
    curve = []
    for step in range(first_step, first_step + MORE_STEPS):
        positions = batch_positions(
            step * recipe.batch_sequences,
            batch_sequences=recipe.batch_sequences,
            data_rank=engine.groups.data_rank,
            data_ranks=layout.data,
        )
        gradients = engine.forward_backward(pretrain.batch_at(sequences, positions), pretrain.loss)
        rate = learning_rate_at(step, optimizer=recipe.optimizer, steps=recipe.train.steps)
        engine.apply(gradients, learning_rate=rate)
        curve.append((gradients.loss, gradients.norm))
    return curve


def unbroken(place: Place, recipe: Recipe) -> list[tuple[float, float]]:
    """Runs on one rank: the steps of a run that was never stopped."""
    from mai.engine.device import open_device
    from mai.engine.groups import join_world

    join_world(backend="gloo", place=place, timeout_seconds=60)
    engine, layout = _engine(recipe, place, open_device("cpu", place))
    for first_step in range(0, SAVED_STEP + 1, MORE_STEPS):
        curve = _train(engine, recipe, layout, first_step=first_step)
    return curve


@pytest.fixture(scope="module")
def recipe(prepared: Recipe) -> Recipe:
    """What the `trained` run trains, on one rank."""
    return changed(prepared, train={"batch_tokens": BATCH_TOKENS})


@dataclass(frozen=True)
class Resharded:
    folder: Path
    curves: dict[Cut, list[tuple[float, float]]]


@pytest.fixture(scope="module")
def saved(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints with that of step 10 only."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / f"step-{SAVED_STEP:010d}").symlink_to(trained.checkpoints / f"step-{SAVED_STEP:010d}")
    return folder


@pytest.fixture(scope="module")
def resharded(recipe: Recipe, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Resharded:
    folder = tmp_path_factory.mktemp("resharded")
    curves = {}
    for cut in CUTS:
        axes = {"tensor": cut.tensor, "pipeline": cut.pipeline, "data": cut.data}
        cut_recipe = changed(recipe, parallel=axes)
        curves[cut] = on_ranks(cut.ranks, load_save_and_train, cut_recipe, saved, folder / str(cut))[0]
    return Resharded(folder, curves)


def test_a_checkpoint_holds_every_element_of_weights_and_moments(recipe: Recipe, saved: Path) -> None:
    whole = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    states = ("weight", "exp_avg", "exp_avg_sq")
    assert {name: tuple(tensor.shape) for name, tensor in whole.items()} == {
        f"{parameter.name}.{state}": parameter.shape for parameter in parameters(recipe.model) for state in states
    }
    assert all(tensor.isfinite().all() for tensor in whole.values())


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_another_layout_saves_what_it_loaded_bit_for_bit(cut: Cut, saved: Path, resharded: Resharded) -> None:
    before = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    after = whole_tensors(resharded.folder / str(cut) / f"step-{SAVED_STEP:010d}")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_another_layout_trains_on_like_the_unbroken_run_on_one_rank(
    cut: Cut, resharded: Resharded, one_rank: list[tuple[float, float]]
) -> None:
    for step, (ours, theirs) in enumerate(zip(resharded.curves[cut], one_rank, strict=True), start=SAVED_STEP + 1):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0), f"step {step}"


@pytest.fixture(scope="module")
def one_rank(recipe: Recipe) -> list[tuple[float, float]]:
    return on_ranks(1, unbroken, recipe)[0]


def weights_after_load(place: Place, recipe: Recipe, saved: Path) -> list[tuple[str, tuple[slice, ...], Any]]:
    """Runs on every rank: name, box and values (fp32, numpy) of each block of weights that the model computes with."""
    from mai.engine.device import open_device
    from mai.engine.groups import join_world
    from mai.engine.sharded_state import blocks

    join_world(backend="gloo", place=place, timeout_seconds=60)
    engine, _ = _engine(recipe, place, open_device("cpu", place))
    _load(engine, saved)
    return [
        (
            block.name,
            tuple(slice(o, o + n) for o, n in zip(block.offset, block.shape, strict=True)),
            parameter.detach().view(-1)[start:][: math.prod(block.shape)].view(block.shape).float().numpy(),
        )
        for parameter, start, block in blocks(engine._module)
    ]


def test_in_bf16_every_rank_computes_with_the_rounded_weights_of_the_checkpoint(recipe: Recipe, saved: Path) -> None:
    bf16 = changed(recipe, precision={"compute": "bf16"}, parallel={"tensor": 2, "data": 2})
    whole = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    found = [block for blocks in on_ranks(4, weights_after_load, bf16, saved) for block in blocks]
    assert {f"{name}.weight" for name, _, _ in found} == {name for name in whole if name.endswith(".weight.weight")}
    for name, box, values in found:
        assert torch.equal(torch.from_numpy(values), whole[f"{name}.weight"].bfloat16().float()[box]), name
