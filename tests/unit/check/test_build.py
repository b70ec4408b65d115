"""`mai check --build`: ranks of the real model are built without memory, and hold what shapes.py says."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mai.errors import ParityError
from mai.model import shapes
from mai.parallel.layout import Layout
from mai.recipe import load
from recipes.debug.every_axis import dense_every_axis

SCRIPT = """
import json, sys
from dataclasses import asdict
from mai.engine import device
device.prepare("cpu")
from mai.check import build
from mai.parallel.layout import Layout
from mai.recipe import load

recipe = load.find(sys.argv[1])()
layout = Layout.of(recipe.parallel, recipe.parallel.model_ranks * recipe.parallel.data)
ranks = build.telling_ranks(layout)
chosen = [ranks[0], ranks[len(ranks) // 2], ranks[-1], layout.world_size - 1]
built = [asdict(one) for one in build.build_ranks(recipe, layout, chosen)]
print(json.dumps({"ranks": built, "peak_bytes": device.Device("cpu", 0).peak_memory_bytes()}))
"""


def built(name: str) -> dict[str, Any]:
    """In a process of its own: it stands for other ranks' processes."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["mai1_500b", "mai1_500b_moe", "mai_base_1", "deepseek_v3", "gpt_oss_120b"])
def test_ranks_of_a_large_model_hold_every_parameter_that_is_planned_with(name: str) -> None:
    found = built(name)
    first, middle, *_, last = found["ranks"]
    assert first["pipeline"] == 0
    assert first["num_parameters"] > 1e8
    recipe = load.find(name)()
    assert middle["pipeline"] > 0
    assert last["pipeline"] == recipe.parallel.pipeline - 1
    assert found["peak_bytes"] < 2 * 2**30, "billions of parameters without memory"


@pytest.mark.usefixtures("cpu_engine")
def test_a_parameter_that_is_planned_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mai.check import build

    recipe, right = dense_every_axis(), shapes.parameters

    def wrong(model: Any) -> Any:
        for parameter in right(model):
            is_it = parameter.name == "decoder.layers.2.mlp.linear_fc2.weight"
            yield replace(parameter, shape=(64, 130)) if is_it else parameter

    monkeypatch.setattr(build, "parameters", wrong)
    layout = Layout.of(recipe.parallel, 16)
    with pytest.raises(ParityError, match=r"rank 0: decoder.layers.2.mlp.linear_fc2.weight: built \[64, 128\]"):
        list(build.build_ranks(recipe, layout, [0]))
