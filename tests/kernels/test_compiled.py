"""What the compiler makes of every shipped kernel for an H100: nothing spilled, whole vectors moved, and no more
registers or shared memory than tests/golden/kernels_sm90a.json allows. A kernel that needs more is a change to look at:
`make test-kernels ARGS=--regenerate-golden` writes the table anew.
"""

import json
from pathlib import Path

import pytest
import triton

from tests.kernels.shipped import shipped, table

GOLDEN = Path(__file__).parents[1] / "golden" / "kernels_sm90a.json"
MOST_SHARED_BYTES = 227 * 1024  # of a block on an H100 (CUDA C++ programming guide, compute capability 9.0)

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="interpreted kernels are not compiled")
Table = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Table:
    made = table()
    if request.config.getoption("--regenerate-golden"):
        GOLDEN.write_text(json.dumps({"triton": triton.__version__, "kernels": made}, indent=1) + "\n")
    return made


@pytest.fixture(scope="module")
def golden(found: Table) -> Table:
    told = json.loads(GOLDEN.read_text())
    assert told["triton"] == triton.__version__, "another compiler: regenerate the table and look at what changed"
    return told["kernels"]  # type: ignore[no-any-return]


def test_the_table_holds_every_shipped_kernel(found: Table, golden: Table) -> None:
    assert found.keys() == golden.keys()


@pytest.mark.parametrize("name", [one.name for one in shipped()])
def test_a_kernel_stays_within_its_resources(name: str, found: Table, golden: Table) -> None:
    ours, allowed = found[name], golden[name]
    assert ours["stack_bytes"] == ours["local_accesses"] == 0, "registers are spilled to memory"
    assert ours["registers"] <= allowed["registers"]
    assert ours["shared_bytes"] <= min(allowed["shared_bytes"], MOST_SHARED_BYTES)
    assert ours["loads_of_16_bytes"] >= allowed["loads_of_16_bytes"] > 0
    assert ours["stores_of_16_bytes"] >= allowed["stores_of_16_bytes"]
    assert ours["tensor_core_instructions"] >= allowed["tensor_core_instructions"]
