"""Every number of every rank is compared with one rank's, and what differs is named."""

from pathlib import Path

import numpy as np
import pytest

from mai.certify.band import compare_bf16
from mai.certify.compare import Comparison, Finding, compare
from mai.recipe import Recipe
from tests.corpus import changed
from tests.unit.certify.recordings import FORWARD, ONE_RANK, SHAPES, TWO_RANKS, Change, Numbers, recorded, unchanged
from tests.unit.recipe.samples import small

NORM = "decoder.layers.0.input_layernorm.weight"
FC2 = "decoder.layers.0.mlp.linear_fc2.weight"


@pytest.fixture
def recipe() -> Recipe:
    return changed(small(), model={"num_layers": 1})


def compared(folder: Path, recipe: Recipe, change: Change = unchanged, *, loss: float = 6.0) -> Comparison:
    layout = recorded(folder / "layout", TWO_RANKS, change, loss=loss)
    return compare(recorded(folder / "one", ONE_RANK), layout, recipe)


def test_equal_numbers_are_right_and_all_are_counted(tmp_path: Path, recipe: Recipe) -> None:
    comparison = compared(tmp_path, recipe)
    assert comparison.wrong == []
    elements = sum(int(np.prod(shape)) for shape in SHAPES.values()) + SHAPES[NORM][0]
    gradients = [finding for finding in comparison.findings if finding.kind == "gradient"]
    assert sum(finding.num_elements for finding in gradients) == 4 * elements, "the norm twice, once a rank"


def test_findings_come_in_the_order_of_training(tmp_path: Path, recipe: Recipe) -> None:
    findings = compared(tmp_path, recipe).findings
    assert [finding.name for finding in findings[:4]] == FORWARD
    second_step = [(finding.kind, finding.name) for finding in findings if finding.step == 2]
    assert second_step == [
        ("loss", ""),
        *(("gradient", name) for name in FORWARD),
        ("gradient norm", ""),
        *(("weight", name) for name in FORWARD),
    ]


def test_one_wrong_element_is_found_with_its_rank_step_and_size(tmp_path: Path, recipe: Recipe) -> None:
    def change(rank: int, step: int, kind: str, name: str, numbers: Numbers) -> Numbers:
        if (rank, step, kind, name) == (1, 3, "gradient", FC2):
            numbers = numbers.copy()
            numbers[7] += 0.25
        return numbers

    (wrong,) = compared(tmp_path, recipe, change).wrong
    assert (wrong.step, wrong.kind, wrong.name, wrong.wrong_ranks) == (3, "gradient", FC2, (1,))
    assert wrong.difference == pytest.approx(0.25)
    assert wrong.right_ranks == (), "rank 0 holds other columns"


def test_a_replica_that_is_right_is_told_from_one_that_is_wrong(tmp_path: Path, recipe: Recipe) -> None:
    def change(rank: int, step: int, _: str, name: str, numbers: Numbers) -> Numbers:
        return numbers * 1.5 if (rank, step, name) == (0, 1, NORM) else numbers

    wrong = compared(tmp_path, recipe, change).wrong
    assert [(finding.kind, finding.wrong_ranks, finding.right_ranks) for finding in wrong] == [
        ("gradient", (0,), (1,)),
        ("weight", (0,), (1,)),
    ]


def test_only_the_first_wrong_step_is_told(tmp_path: Path, recipe: Recipe) -> None:
    def change(_rank: int, step: int, kind: str, _name: str, numbers: Numbers) -> Numbers:
        return numbers + 1 if step >= 2 and kind == "gradient" else numbers

    wrong = compared(tmp_path, recipe, change).wrong
    assert {finding.step for finding in wrong} == {2}
    assert [finding.name for finding in wrong] == FORWARD


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_wrong(value: float, tmp_path: Path, recipe: Recipe) -> None:
    def change(rank: int, step: int, kind: str, name: str, numbers: Numbers) -> Numbers:
        is_there = (rank, step, kind, name) == (1, 1, "gradient", NORM)
        return np.full_like(numbers, value) if is_there else numbers

    (wrong,) = compared(tmp_path, recipe, change).wrong
    assert (wrong.name, wrong.wrong_ranks, wrong.right_ranks) == (NORM, (1,), (0,))


@pytest.mark.parametrize("allowed", [0.0, np.nan, np.inf])
def test_a_tolerance_that_is_no_tolerance_lets_nothing_pass(allowed: float) -> None:
    finding = Finding(step=1, kind="loss", name="", difference=1e-9, allowed=allowed, one_rank=0.0, num_elements=1)
    assert finding.is_wrong


def test_a_loss_that_differs_is_wrong(tmp_path: Path, recipe: Recipe) -> None:
    wrong = compared(tmp_path, recipe, loss=6.0 + 1e-4).wrong
    assert [(finding.kind, finding.step, finding.wrong_ranks) for finding in wrong] == [("loss", 1, (0, 1))]


def test_elements_that_no_rank_holds_are_wrong(tmp_path: Path, recipe: Recipe) -> None:
    held = [{**TWO_RANKS[0], FC2: ((0, 0), (64, 64), 0, 4089)}, TWO_RANKS[1]]
    layout = recorded(tmp_path / "layout", held)
    wrong = compare(recorded(tmp_path / "one", ONE_RANK), layout, recipe).wrong
    assert [(finding.name, finding.num_missing) for finding in wrong] == [(FC2, 7)]


def test_a_parameter_that_one_rank_does_not_know_is_wrong(tmp_path: Path, recipe: Recipe) -> None:
    fewer = [{name: part for name, part in ONE_RANK[0].items() if name != FC2}]
    one_rank, layout = recorded(tmp_path / "one", fewer), recorded(tmp_path / "layout", TWO_RANKS)
    wrong = compare(one_rank, layout, recipe).wrong
    assert [(finding.name, finding.wrong_ranks) for finding in wrong] == [(FC2, (0, 1))]


def test_a_gradient_of_nothing_but_rounding_is_judged_by_the_whole(tmp_path: Path, recipe: Recipe) -> None:
    def change(rank: int, _step: int, kind: str, name: str, numbers: Numbers) -> Numbers:
        noise = 3e-11 if rank else -3e-11
        return noise * numbers if (kind, name) == ("gradient", NORM) else numbers

    one_rank = recorded(tmp_path / "one", ONE_RANK, change)
    assert compare(one_rank, recorded(tmp_path / "layout", TWO_RANKS, change), recipe).wrong == []


def rounded(scale: float, *, seed: int) -> Change:
    """Every number off by this share, each in its own way."""
    drawn = np.random.default_rng(seed)

    def change(_rank: int, _step: int, _kind: str, _name: str, numbers: Numbers) -> Numbers:
        return (numbers * (1 + scale * drawn.standard_normal(numbers.shape))).astype(np.float32)

    return change


def compared_in_bf16(folder: Path, recipe: Recipe, change: Change) -> Comparison:
    """With one bf16 rank whose numbers are 4 in 1,000 off."""
    fp32 = recorded(folder / "fp32", ONE_RANK)
    one_rank = recorded(folder / "one", ONE_RANK, rounded(4e-3, seed=0))
    return compare_bf16(fp32, one_rank, recorded(folder / "layout", TWO_RANKS, change), recipe)


def test_bf16_may_round_as_one_bf16_rank_rounds(tmp_path: Path, recipe: Recipe) -> None:
    assert compared_in_bf16(tmp_path, recipe, rounded(4e-3, seed=1)).wrong == []


def test_bf16_may_not_round_three_times_as_much(tmp_path: Path, recipe: Recipe) -> None:
    wrong = compared_in_bf16(tmp_path, recipe, rounded(12e-3, seed=1)).wrong
    gradients = [finding for finding in wrong if finding.kind == "gradient"]
    assert [(finding.step, finding.name) for finding in gradients] == [(1, name) for name in FORWARD]


def test_a_bf16_weight_that_is_not_updated_is_wrong(tmp_path: Path, recipe: Recipe) -> None:
    rate = 1e-3
    learning = changed(recipe, optimizer={"learning_rate": rate})
    fp32, one_rank = recorded(tmp_path / "fp32", ONE_RANK), recorded(tmp_path / "one", ONE_RANK)

    def change(rank: int, step: int, kind: str, name: str, numbers: Numbers) -> Numbers:
        return numbers + 2 * rate if (step, kind, name) == (1, "weight", FC2) else numbers

    wrong = compare_bf16(fp32, one_rank, recorded(tmp_path / "layout", TWO_RANKS, change), learning).wrong
    assert [(finding.kind, finding.name) for finding in wrong] == [("weight", FC2)]
