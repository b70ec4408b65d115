"""A fused operation that computes wrongly: on one rank it is the node, on all it is the build; no step is taken.

What has another cause keeps its own name."""

import errno
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mai.engine import operations
from mai.kernels import swiglu
from mai.recipe import Recipe
from tests.fault.small_run import assert_failed_well, committed, train
from tests.jobs import Job

Launch = Callable[..., Job]
SHORT = ("parallel.data=2", "train.steps=2", "optimizer.schedule.warmup_steps=1")


def bad_build() -> None:
    """SwiGLU is wrong on all ranks that this process starts."""
    operations.FUSED = replace(operations.FUSED, swiglu=lambda x: 1.1 * swiglu.fused(x))


def bad_card() -> None:
    """And here it cannot be launched on one of them."""

    def of_a_bad_card(x: Tensor) -> Tensor:
        if os.environ["RANK"] == "1":
            raise RuntimeError("CUDA error: an illegal instruction was encountered")
        return swiglu.fused(x)

    operations.FUSED = replace(operations.FUSED, swiglu=of_a_bad_card)


def test_one_rank_that_disagrees_is_a_bad_node(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    job = launch(train(prepared, tmp_path / "run", *SHORT), folder=tmp_path / "run", plant=bad_card)
    assert_failed_well(job, 215, "NODE_BAD")
    assert f"1 of 2 ranks compute something else than plain torch; leave out {platform.node()}" in job.stderr
    told = f"rank 1 on {platform.node()}: swiglu: RuntimeError: CUDA error: an illegal instruction was encountered"
    assert told in job.stderr
    assert told in job.terminal.evidence
    assert job.step() == 0


def test_ranks_that_all_disagree_are_a_bad_build(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    job = launch(train(prepared, tmp_path / "run", *SHORT), folder=tmp_path / "run", plant=bad_build)
    assert_failed_well(job, 83, "ENVIRONMENT")
    assert "swiglu: off by " in job.stderr
    assert "build it again (make setup), or train with kernels=reference" in job.stderr
    assert job.step() == 0


def test_the_reference_trains_where_the_build_is_bad(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder = tmp_path / "run"
    job = launch(train(prepared, folder, *SHORT, "kernels=reference"), folder=folder, plant=bad_build)
    assert job.exit_code() == 0, job.stderr
    assert committed(folder) == [2]
    assert job.events("kernels tested") == []


def full_card() -> None:
    """Another process has filled the card of one rank."""

    def without_memory(x: Tensor) -> Tensor:
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return swiglu.fused(x)

    operations.FUSED = replace(operations.FUSED, swiglu=without_memory)


def full_disk() -> None:
    """No rank can write what was compiled into Triton's cache."""

    def without_cache(_: Tensor) -> Tensor:
        raise OSError(errno.ENOSPC, "No space left on device", "cache/kernel.cubin")

    operations.FUSED = replace(operations.FUSED, swiglu=without_cache)


@pytest.mark.parametrize(
    ("plant", "code", "name", "told"),
    [
        (full_card, 218, "OUT_OF_MEMORY", f"rank 1 on {platform.node()}: out of memory: CUDA out of memory."),
        (full_disk, 216, "STORAGE", "cache/kernel.cubin: No space left on device"),
    ],
)
def test_a_full_card_or_disk_is_neither_node_nor_build(
    plant: Callable[[], None], code: int, name: str, told: str, prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    job = launch(train(prepared, tmp_path / "run", *SHORT), folder=tmp_path / "run", plant=plant)
    assert_failed_well(job, code, name)
    assert told in job.stderr
    assert job.step() == 0


def test_a_run_says_once_that_it_was_tested(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    job = launch(train(prepared, tmp_path / "run", *SHORT), folder=tmp_path / "run")
    assert job.exit_code() == 0, job.stderr
    assert len(job.events("kernels tested")) == 1
