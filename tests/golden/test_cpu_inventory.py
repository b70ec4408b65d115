"""What the CPU adapter touches in Megatron-Core is written down: a new version, or a new rule, shows here first.

cpu_inventory.json: {"megatron-core": version, "rewrites": {module: {function: [what, ...]}}}, for every module that the
training path imports. When a change is meant, `pytest tests/golden --regenerate-golden` writes it anew: read the diff.
"""

import difflib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("cpu_inventory.json")

LOOK = """
import importlib.metadata, json
from mai.engine import device
device.prepare("cpu")
import mai.train.farewell, mai.train.rank
from mai.engine import cpu_adapter
found = {}
for module, places in cpu_adapter.inventory().items():
    for place in places:
        found.setdefault(module, {}).setdefault(place.function, []).append(place.what)
print(json.dumps({"megatron-core": importlib.metadata.version("megatron-core"), "rewrites": found}))
"""


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    """Of a fresh process, which has imported what training imports and nothing else."""
    looked = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert looked.returncode == 0, looked.stderr
    return json.loads(looked.stdout)  # type: ignore[no-any-return]


def lines(inventory: dict[str, Any]) -> list[str]:
    """One line a function: what a diff shows."""
    return [f"megatron-core {inventory['megatron-core']}"] + [
        f"{module} {function}: {', '.join(places)}"
        for module, functions in sorted(inventory["rewrites"].items())
        for function, places in sorted(functions.items())
    ]


def test_the_adapter_touches_what_is_written_down(inventory: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--regenerate-golden"):
        GOLDEN.write_text(json.dumps(inventory, indent=1, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    difference = difflib.unified_diff(lines(golden), lines(inventory), "written down", "found", lineterm="", n=0)
    if changes := "\n".join(difference):
        pytest.fail(f"{changes}\nIf this is meant: pytest tests/golden --regenerate-golden, and read the diff")


def test_the_inventory_covers_what_training_runs_through(inventory: dict[str, Any]) -> None:
    assert {
        "megatron.core.distributed.param_and_grad_buffer",
        "megatron.core.optimizer.distrib_optimizer",
        "megatron.core.parallel_state",
        "megatron.core.pipeline_parallel.p2p_communication",
        "megatron.core.pipeline_parallel.schedules",
        "megatron.core.tensor_parallel.layers",
        "megatron.core.tensor_parallel.random",
        "megatron.core.transformer.transformer_layer",
    } <= inventory["rewrites"].keys()
