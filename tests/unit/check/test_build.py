"""`mai check --build`: ranks of the real model are built without memory, and hold what shapes.py says."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from mai.check.boxes import Box, held, telling_ranks
from mai.errors import ParityError
from mai.model import shapes
from mai.model.flops import flops_per_token
from mai.parallel.layout import Layout
from mai.recipe import load
from recipes.debug.every_axis import dense_every_axis
from tests.house.sources import ROOT

SCRIPT = """
import json, sys
from dataclasses import asdict
from mai.engine import device
device.prepare("cpu")
from mai.check import build_without_memory
from mai.check.boxes import telling_ranks
from mai.parallel.layout import Layout
from mai.recipe import load

recipe = load.find(sys.argv[1])()
layout = Layout.of(recipe.parallel, recipe.parallel.model_ranks * recipe.parallel.data)
ranks = telling_ranks(layout)
chosen = [ranks[0], ranks[len(ranks) // 2], ranks[-1], layout.world_size - 1]
built = [asdict(one) for one in build_without_memory.build_ranks(recipe, layout, chosen)]
print(json.dumps({"ranks": built, "peak_bytes": device.Device("cpu", 0).peak_memory_bytes()}))
"""


def built(name: str) -> dict[str, Any]:
    """In a process of its own: it stands for other ranks' processes."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mai1_500b", "mai1_500b_moe", "mai_base_1", "deepseek_v3", "gpt_oss_120b"])
def test_ranks_of_a_large_model_hold_every_parameter_that_is_planned_with(name: str) -> None:
    found = built(name)
    first, middle, *_, last = found["ranks"]
    assert first["pipeline"] == 0
    assert first["num_parameters"] > 1e8
    recipe = load.find(name)()
    assert (middle["pipeline"] > 0) == (recipe.parallel.pipeline > 1)
    assert last["pipeline"] == recipe.parallel.pipeline - 1
    assert found["peak_bytes"] < 2 * 2**30, "billions of parameters without memory"


def check_build(name: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mai", "check", name, "--build", "--json", *words]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)  # type: ignore[no-any-return]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "num_ranks", "parameters"), [("mai1_500b", 208, 495_395_555_328), ("mai1_500b_moe", 128, 496_715_962_368)]
)
def test_every_rank_of_a_500b_model_that_differs_is_built(name: str, num_ranks: int, parameters: int) -> None:
    found = check_build(name, "--gpus", "15000")
    assert len(found["built"]) == num_ranks
    assert found["parameters"] == parameters


def test_an_embedding_that_is_the_output_layer_too_stands_on_the_last_stage() -> None:
    words = ("model.tied_embeddings=true", "parallel.pipeline=2", "parallel.data=1")
    assert [one["pipeline"] for one in check_build("tiny", *words)["built"]] == [0, 1]


def test_every_rank_or_the_chosen_one_is_built_and_numbers_of_a_token_are_told() -> None:
    every = check_build("experts_every_axis")
    places = [(one["pipeline"], one["tensor"], one["expert"]) for one in every["built"]]
    assert places == sorted(product(range(2), range(2), range(2)), key=lambda place: (place[0], place[2], place[1]))
    assert every["parameters"] - every["active_parameters"] == 3 * 2 * EXPERT_ELEMENTS
    recipe = load.find("experts_every_axis")()
    assert every["flops_per_token"] == flops_per_token(recipe.model, recipe.data.sequence_length)
    (chosen,) = check_build("experts_every_axis", "--rank", "11")["built"]
    assert chosen["rank"] == 11


@pytest.mark.parametrize("name", ["mai1_500b", "mai1_500b_moe", "deepseek_v3", "gpt_oss_120b", "experts_every_axis"])
def test_the_boxes_of_all_ranks_cover_every_tensor_once(name: str) -> None:
    """Blocks of one tensor that differ do not overlap; so all elements are there when they add up to it."""
    recipe = load.find(name)()
    layout = Layout.of(recipe.parallel, recipe.parallel.model_ranks * recipe.parallel.data)
    found: dict[str, set[Box]] = {}
    for rank in telling_ranks(layout):
        for parameter, boxes in held(recipe, layout, rank):
            found.setdefault(parameter.name, set()).update(boxes)
    every = {parameter.name: parameter for parameter in shapes.parameters(recipe.model)}
    assert every.keys() <= found.keys()
    for name, parameter in every.items():
        assert sum(math.prod(box.shape) for box in found[name]) == parameter.num_elements, name
        starts = {box.offset for box in found[name]}
        assert len(starts) == len(found[name]), f"{name}: two boxes begin at one place"


# experts_every_axis: three layers of four experts, of which two compute a token, gate, up and down of 64 x 64 each.
EXPERT_ELEMENTS = 3 * 64 * 64
FC2 = "decoder.layers.2.mlp.linear_fc2.weight"


@pytest.mark.usefixtures("cpu_engine")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": (64, 130)}, rf"rank 0: {FC2}: built \[64, 128\], shapes.py says \[64, 130\]"),
        # As many elements, and others: what a count does not tell.
        ({"split": shapes.Split.ROWS}, rf"rank 0: {FC2} \[64, 128\]: holds .*shape=\(64, 64\).*says .*\(32, 128\)"),
    ],
    ids=["shape", "split"],
)
def test_a_parameter_that_is_planned_otherwise_is_named(
    change: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mai.check import boxes, build_without_memory

    recipe, right = dense_every_axis(), shapes.parameters

    def wrong(model: Any) -> Any:
        for parameter in right(model):
            yield replace(parameter, **change) if parameter.name == FC2 else parameter

    monkeypatch.setattr(boxes, "parameters", wrong)
    with pytest.raises(ParityError, match=told):
        list(build_without_memory.build_ranks(recipe, Layout.of(recipe.parallel, 16), [0]))
