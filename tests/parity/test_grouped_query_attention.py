"""Norms of heads, and layers that turn nothing, give the one-rank answer where heads and positions are cut, and the
answer of plain torch.

fp32: relative difference of every loss and gradient norm over 20 steps at most 1e-5, and of every gradient of the first
step as a whole.
"""

from dataclasses import replace

import pytest

from mai.recipe import GroupedQueryAttention, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.steps import Found, LayoutSteps, beside_one_rank, relative_differences
from tests.parity.trainer import BATCH_SEQUENCES, STEPS, name_of

TOLERANCE = 1e-5
CUT = ParallelConfig(
    tensor=2, sequence=True, context=2, data=1, micro_batch_sequences=4, recompute=("attention_core", "norms")
)


@pytest.fixture(scope="module")
def found(prepared: Recipe, pytestconfig: pytest.Config) -> dict[str, Found]:
    fused = changed(
        prepared,
        model={
            "num_layers": 2,
            "attention": GroupedQueryAttention(qk_norm=True),
            # The second layer sees all positions and turns by none.
            "window": 16,
            "global_every": 2,
            "global_positions": False,
        },
        parallel={"data": 1, "micro_batch_sequences": 4},
        train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length},
    )
    recipes = {"fused": fused, "plain": replace(fused, kernels="reference")}
    return beside_one_rank(recipes, {"fused": [CUT], "plain": []}, {"fused": [], "plain": []}, pytestconfig)


@pytest.fixture
def one_rank(found: dict[str, Found]) -> LayoutSteps:
    return found["fused"].one_rank


def test_a_layout_gives_the_one_rank_losses_and_gradients(found: dict[str, Found], one_rank: LayoutSteps) -> None:
    assert_same(found["fused"].layouts[name_of(CUT)], one_rank)


def test_plain_torch_gives_the_same(found: dict[str, Found], one_rank: LayoutSteps) -> None:
    assert_same(found["plain"].one_rank, one_rank)


def test_the_model_learns_in_these_steps(one_rank: LayoutSteps) -> None:
    first, last = one_rank.curve[0][0], one_rank.curve[STEPS - 1][0]
    assert last < first - 0.2, "a parity of models that do not move proves little"
    assert any("q_layernorm" in name for name in one_rank.gradients())


def assert_same(ours: LayoutSteps, theirs: LayoutSteps) -> None:
    for step, (our, their) in enumerate(zip(ours.curve, theirs.curve, strict=True)):
        assert our == pytest.approx(their, rel=TOLERANCE, abs=0), f"step {step}"
    differences = relative_differences(ours.gradients(), theirs.gradients())
    assert not {name: difference for name, difference in differences.items() if not difference <= TOLERANCE}
