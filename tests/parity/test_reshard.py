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
from tests.parity.trainer import Curve, load_save_and_train, open_trainer
from tests.ranks import on_ranks

SAVED_STEP = 10
MORE_STEPS = 5
TOLERANCE = 1e-5


CUTS: dict[str, dict[str, Any]] = {
    "one-rank": {},
    "data2": {"data": 2},
    "tensor2": {"tensor": 2},
    "pipeline4": {"pipeline": 4},
    "pipeline2-uneven-interleaved": {"pipeline": 2, "virtual_stages": 2, "stages": "E|tt|tt|L"},
    "context2-data2-hybrid": {"context": 2, "data": 2, "sharding_ranks": 2},
}


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


def unbroken(place: Place, recipe: Recipe) -> Curve:
    """Runs on one rank: the steps of a run that was never stopped."""
    return open_trainer(place, recipe).curve(range(SAVED_STEP + MORE_STEPS))[SAVED_STEP:]


@pytest.fixture(scope="module")
def recipe(prepared: Recipe) -> Recipe:
    """What the `trained` run trains, on one rank."""
    return changed(prepared, train={"batch_tokens": BATCH_TOKENS})


@dataclass(frozen=True)
class Resharded:
    folder: Path
    curves: dict[str, Curve]


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
    for cut, axes in CUTS.items():
        cut_recipe = changed(recipe, parallel=axes)
        ranks = cut_recipe.parallel.model_ranks * axes.get("data", 1)
        curves[cut] = on_ranks(ranks, load_save_and_train, cut_recipe, saved, folder / cut, MORE_STEPS)[0]
    return Resharded(folder, curves)


def test_a_checkpoint_holds_every_element_of_weights_and_moments(recipe: Recipe, saved: Path) -> None:
    whole = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    states = ("weight", "exp_avg", "exp_avg_sq")
    assert {name: tuple(tensor.shape) for name, tensor in whole.items()} == {
        f"{parameter.name}.{state}": parameter.shape for parameter in parameters(recipe.model) for state in states
    }
    assert all(tensor.isfinite().all() for tensor in whole.values())


@pytest.mark.parametrize("cut", CUTS)
def test_another_layout_saves_what_it_loaded_bit_for_bit(cut: str, saved: Path, resharded: Resharded) -> None:
    before = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    after = whole_tensors(resharded.folder / cut / f"step-{SAVED_STEP:010d}")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("cut", CUTS)
def test_another_layout_trains_on_like_the_unbroken_run_on_one_rank(
    cut: str, resharded: Resharded, one_rank: Curve
) -> None:
    for step, (ours, theirs) in enumerate(zip(resharded.curves[cut], one_rank, strict=True), start=SAVED_STEP + 1):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0), f"step {step}"


@pytest.fixture(scope="module")
def one_rank(recipe: Recipe) -> Curve:
    return on_ranks(1, unbroken, recipe)[0]


def weights_after_load(place: Place, recipe: Recipe, saved: Path) -> list[tuple[str, tuple[slice, ...], Any]]:
    """Runs on every rank: name, box and values (fp32, numpy) of each block of weights that the model computes with."""
    from mai.engine.sharded_state import blocks

    trainer = open_trainer(place, recipe)
    trainer.load(saved)
    return [
        (
            block.name,
            tuple(slice(o, o + n) for o, n in zip(block.offset, block.shape, strict=True)),
            parameter.detach().view(-1)[start:][: math.prod(block.shape)].view(block.shape).float().numpy(),
        )
        for parameter, start, block in blocks(trainer.engine._virtual_stages)
    ]


def test_in_bf16_every_rank_computes_with_the_rounded_weights_of_the_checkpoint(recipe: Recipe, saved: Path) -> None:
    bf16 = changed(recipe, precision={"compute": "bf16"}, parallel={"tensor": 2, "data": 2})
    whole = whole_tensors(saved / f"step-{SAVED_STEP:010d}")
    found = [block for blocks in on_ranks(4, weights_after_load, bf16, saved) for block in blocks]
    assert {f"{name}.weight" for name, _, _ in found} == {name for name in whole if name.endswith(".weight.weight")}
    for name, box, values in found:
        assert torch.equal(torch.from_numpy(values), whole[f"{name}.weight"].bfloat16().float()[box]), name
