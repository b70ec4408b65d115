"""nanotron's layouts are cut as nanotron cuts them, and those that failed are told from those that ran."""

import pytest

from benchmarks.ground_truth.nanotron import nanotron_setting_of
from benchmarks.ground_truth.rows import HERE, Row, UnusableError, read
from benchmarks.plan_memory_accuracy import is_rejected


def layout(*, pipeline: int, data: int = 1, micro_batch: int = 1) -> Row:
    row = next(row for row in read() if row["model"] == "nanotron-8.86B")
    gpus, batch = str(pipeline * data), "256"
    return {
        **row, "gpus": gpus, "tp": "1", "pp": str(pipeline), "dp": str(data), "zero": "0",
        "micro_batch": str(micro_batch), "global_batch": batch,
    }  # fmt: skip


def layers_of_stages(row: Row) -> list[int]:
    return [len(part.layers) for (part,) in nanotron_setting_of(row).stages]


def test_a_stage_takes_the_layer_that_goes_above_its_share() -> None:
    # 32 layers, and an output layer that costs 2.46 of them: a half is 17.2 layers, a quarter 8.6.
    assert layers_of_stages(layout(pipeline=2)) == [18, 14]
    assert layers_of_stages(layout(pipeline=4)) == [9, 9, 8, 6]


def test_too_few_micro_batches_for_the_stages_do_not_run() -> None:
    assert nanotron_setting_of(layout(pipeline=4, micro_batch=64)).num_micro_batches == 4
    with pytest.raises(UnusableError, match="too few"):
        nanotron_setting_of(layout(pipeline=8, micro_batch=64))


def test_failed_layouts_are_rejected_and_those_that_ran_are_not() -> None:
    """Every tenth; benchmarks/plan_memory_accuracy.py counts all: 81.7% and 0.5%."""
    failed = [is_rejected(row) for row in list(read(HERE / "failed_layouts.csv"))[::10]]
    ran = [is_rejected(row) for row in list(read())[::10] if row["source"].startswith("HF nanotron")]
    assert sum(failed) >= 0.75 * len(failed)
    assert sum(ran) <= 0.02 * len(ran)
