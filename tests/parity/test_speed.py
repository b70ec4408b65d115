"""What a run says of its speed is what its clock, its batch and the convention make of it."""

from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mai.engine.device import Device
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.fault.small_run import train
from tests.jobs import BATCH_TOKENS, Job

PEAK = 3e11
"""FLOP/s in bf16 of a card that no machine has."""
WEIGHTS_OF_LAYER = 64 * (4 + 2 * 2) * 16 + 64 * 64 + 3 * 64 * 128
"""Of `tiny`: queries, keys and values; their output; gate, up and down."""
OUTPUT_LAYER = 64 * 512


def flops_per_token(num_layers: int) -> int:
    """docs/glossary.md, "The FLOP convention", of `tiny` on 64 tokens."""
    return 6 * (num_layers * WEIGHTS_OF_LAYER + OUTPUT_LAYER) + 6 * num_layers * (4 * 16) * 64


def assert_adds_up(record: Mapping[str, Any], *, batch_tokens: int, num_layers: int) -> None:
    assert record["step_seconds"] > 0
    assert record["tokens_per_second"] * record["step_seconds"] == pytest.approx(batch_tokens)
    expected = record["tokens_per_second"] * flops_per_token(num_layers)
    assert record["model_flops_per_second"] == pytest.approx(expected)


def test_tokens_and_operations_a_second_are_those_of_the_steps_seconds(trained: RunFolder) -> None:
    records = list(trained.read_metrics())
    assert len(records) == 20
    for record in records:
        assert_adds_up(record, batch_tokens=BATCH_TOKENS, num_layers=4)
        # Nobody publishes the peak of a CPU.
        assert record["utilisation"] is None
        assert record["tokens"] == record["step"] * BATCH_TOKENS


def test_steps_take_no_longer_than_the_time_between_their_records(trained: RunFolder) -> None:
    for before, record in pairwise(trained.read_metrics()):
        between = datetime.fromisoformat(record["time"]) - datetime.fromisoformat(before["time"])
        # The time of a record is cut to milliseconds.
        assert record["step_seconds"] < between.total_seconds() + 0.002


def known_cards() -> None:
    """The devices of this run say a peak."""
    Device.peak_flops_per_second = lambda _, format_name: {"bf16": PEAK}.get(format_name)  # type: ignore[method-assign]


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_utilisation_is_of_the_bf16_peak_of_all_devices_and_of_a_run_in_bf16(
    compute: str, prepared: Recipe, tmp_path: Path, launch: Callable[..., Job]
) -> None:
    changes = ("parallel.data=2", f"precision.compute={compute}", "train.steps=2", "optimizer.schedule.warmup_steps=1")
    job = launch(train(prepared, tmp_path / "run", *changes), folder=tmp_path / "run", plant=known_cards)
    assert job.exit_code() == 0, job.stderr
    first, second = job.folder.read_metrics()
    for record in (first, second):
        assert_adds_up(record, batch_tokens=256, num_layers=2)
        of_both = record["model_flops_per_second"] / (2 * PEAK)
        assert record["utilisation"] == (pytest.approx(of_both) if compute == "bf16" else None)
