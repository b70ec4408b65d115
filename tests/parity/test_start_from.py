"""`checkpoint.start_from` takes the weights of a run that was trained, and nothing else of it."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.fault.small_run import train
from tests.jobs import Job, ended_jobs
from tests.parity.test_resume import checkpoint_as_bits, steps_as_bits

STEPS = 4


@dataclass(frozen=True)
class Runs:
    trained: RunFolder
    """Trained for some steps, with moments in its checkpoint."""
    after_it: RunFolder
    """Started from it, with a checkpoint of its first step and of its last."""
    after_its_weights: RunFolder
    """The same, started from a folder that holds the same weights and never held a moment."""


@pytest.fixture(scope="module")
def runs(prepared: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("start_from")
    changes = (
        "parallel.data=2",
        f"train.steps={STEPS}",
        "optimizer.schedule.warmup_steps=1",
        "optimizer.weight_decay=0",
        "checkpoint.every_steps=1",
        f"checkpoint.keep={STEPS}",
    )

    with ended_jobs() as start:

        def run(*words: str, name: str) -> RunFolder:
            job: Job = start(words, folder=folder / name)
            assert job.exit_code() == 0, job.stderr
            return RunFolder(folder / name)

        def run_from(source: RunFolder, name: str) -> RunFolder:
            start_from = f"checkpoint.start_from={source.path}"
            return run(*train(prepared, folder / name, *changes, start_from), name=name)

        trained = run(*train(prepared, folder / "trained", *changes), name="trained")
        run("export", "hf", str(trained.path), str(folder / "weights"), name="weights")
        weights = run("import", "hf", str(folder / "weights"), str(folder / "imported"), name="imported")
        return Runs(trained, run_from(trained, "after_it"), run_from(weights, "after_its_weights"))


def states(folder: RunFolder, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's files."""
    found: dict[str, Tensor] = {}
    for file in (folder.checkpoints / f"step-{step:010d}").glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_it_goes_on_as_from_the_same_weights_without_moments(runs: Runs) -> None:
    assert steps_as_bits(runs.after_it) == steps_as_bits(runs.after_its_weights)
    assert checkpoint_as_bits(runs.after_it, STEPS) == checkpoint_as_bits(runs.after_its_weights, STEPS)
    assert len(steps_as_bits(runs.after_it)) == STEPS


def test_its_first_update_is_the_first_that_adamw_ever_made(runs: Runs, prepared: Recipe) -> None:
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2: from moments at zero, corrected for one update, each weight
    goes by the whole learning rate against its gradient."""
    before, after = states(runs.trained, STEPS), states(runs.after_it, 1)
    (record, *_) = runs.after_it.read_metrics()
    optimizer, rate = prepared.optimizer, record["learning_rate"]
    names = [name.removesuffix(".weight") for name in before if name.endswith(".weight")]
    assert names
    assert rate > 0
    assert all(before[f"{name}.exp_avg"].any() for name in names)
    for name in names:
        gradient = after[f"{name}.exp_avg"] / (1 - optimizer.beta1)
        torch.testing.assert_close(after[f"{name}.exp_avg_sq"], (1 - optimizer.beta2) * gradient**2)
        expected = before[f"{name}.weight"] - rate * gradient / (gradient.abs() + optimizer.epsilon)
        torch.testing.assert_close(after[f"{name}.weight"], expected, rtol=1e-6, atol=1e-7)
