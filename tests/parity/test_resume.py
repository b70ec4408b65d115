"""A run that is stopped and started again equals one that never stopped, bit for bit."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.fault.small_run import train
from tests.jobs import BATCH_TOKENS, TRAINED, Job, ended_jobs, on_corpus, wait_until

STEPS = 20


@dataclass(frozen=True)
class Disturbed:
    folder: RunFolder
    codes: list[int]
    """Exit codes of the attempts: --stop-at, SIGTERM, a killed rank, to the end."""
    stopped_at: list[int]
    """Steps done after each attempt."""
    terminal_codes: list[int]
    left_behind: list[int]


def steps_as_bits(folder: RunFolder) -> list[tuple[int, str, str, str]]:
    return [
        (record["step"], *(float(record[name]).hex() for name in ("loss", "gradient_norm", "learning_rate")))
        for record in folder.read_metrics()
    ]


def checkpoint_as_bits(folder: RunFolder, step: int) -> dict[str, bytes]:
    """The tensor files of a checkpoint: weights and both moments, as every rank wrote them."""
    files = sorted((folder.checkpoints / f"step-{step:010d}").glob("*.safetensors"))
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def disturbed(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """The same run as `trained`, through the command line, stopped in three ways."""
    folder = tmp_path_factory.mktemp("disturbed") / "run"
    command = ["train", "tiny", *on_corpus(prepared), *TRAINED, "--run", str(folder), "--device", "cpu"]
    jobs: list[Job] = []
    codes, stopped_at, left_behind = [], [], []

    def finish() -> None:
        codes.append(jobs[-1].exit_code())
        stopped_at.append(jobs[-1].step())
        left_behind.extend(jobs[-1].left_behind())

    with ended_jobs() as start:
        jobs.append(start([*command, "--stop-at", "4"], folder=folder, cold=True))
        finish()
        jobs.append(start(command, folder=folder, cold=True))
        jobs[-1].wait_for_step(8)
        jobs[-1].send(signal.SIGTERM)
        finish()
        jobs.append(start(command, folder=folder))
        wait_until((RunFolder(folder).checkpoints / f"step-{10:010d}").exists, seconds=60)
        jobs[-1].wait_for_step(12)
        os.kill(jobs[-1].rank_pids()[5], signal.SIGKILL)
        finish()
        jobs.append(start(command, folder=folder))
        finish()
    terminals = [RunFolder(folder).read_terminal(attempt) for attempt in (1, 2, 3, 4)]
    terminal_codes = [terminal.code for terminal in terminals if terminal]
    return Disturbed(RunFolder(folder), codes, stopped_at, terminal_codes, left_behind)


def test_every_stop_has_its_exit_code_and_leaves_no_process(disturbed: Disturbed) -> None:
    assert disturbed.codes == disturbed.terminal_codes == [87, 210, 213, 0]
    first, terminated, killed, last = disturbed.stopped_at
    assert (first, last) == (4, STEPS)
    assert 8 <= terminated < killed < STEPS
    assert disturbed.left_behind == []


def test_every_step_equals_the_undisturbed_run(trained: RunFolder, disturbed: Disturbed) -> None:
    assert steps_as_bits(disturbed.folder) == steps_as_bits(trained)
    assert len(steps_as_bits(trained)) == STEPS


def test_the_final_weights_and_moments_equal_the_undisturbed_run(trained: RunFolder, disturbed: Disturbed) -> None:
    ours = checkpoint_as_bits(disturbed.folder, STEPS)
    assert len(ours) == 8
    assert ours == checkpoint_as_bits(trained, STEPS)


def test_no_sequence_is_lost_or_read_twice(prepared: Recipe, disturbed: Disturbed) -> None:
    batch = BATCH_TOKENS // prepared.data.sequence_length
    positions = [record["position"] for record in disturbed.folder.read_metrics()]
    assert positions == [batch * step for step in range(1, STEPS + 1)]


def test_a_resumed_run_on_one_rank_in_bf16_equals_an_undisturbed_one(
    prepared: Recipe, tmp_path: Path, launch: Callable[..., Job]
) -> None:
    def run(folder: Path, *flags: str) -> int:
        changes = (f"train.steps={STEPS}", "precision.compute=bf16")
        return launch(train(prepared, folder, *changes, flags=flags), folder=folder).exit_code()

    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    assert run(undisturbed) == 0
    assert [run(resumed, "--stop-at", "10"), run(resumed)] == [87, 0]
    assert steps_as_bits(RunFolder(resumed)) == steps_as_bits(RunFolder(undisturbed))
    assert checkpoint_as_bits(RunFolder(resumed), STEPS) == checkpoint_as_bits(RunFolder(undisturbed), STEPS)
