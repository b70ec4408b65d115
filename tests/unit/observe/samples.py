"""Real records with plain numbers."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mai.observe.record import RunStarted, StepRecord
from mai.recipe.observe import WandbConfig


def run_started(folder: Path, *, steps: int = 10, attempt: int = 1) -> RunStarted:
    return RunStarted(
        run_id="a1b2c3",
        name="tiny",
        folder=folder,
        attempt=attempt,
        step=0,
        steps=steps,
        num_parameters=1_000_000,
        layout="tensor 2, data 2",
        device="4 CPU ranks",
        flop_convention="6 per parameter and token",
        recipe={"name": "tiny", "train": {"steps": steps}, "observe": {"wandb": asdict(WandbConfig())}},
    )


def step_record(step: int, **changes: Any) -> StepRecord:
    record = StepRecord(
        step=step,
        loss=4.0 / step,
        gradient_norm=0.5,
        learning_rate=1e-3,
        tokens=512 * step,
        step_seconds=0.25,
        tokens_per_second=2048.0,
        model_flops_per_second=1.25e9,
        utilisation=None,
        memory_bytes=300 * 2**20,
        kept=True,
        position=8 * step,
        time="2026-01-31T12:00:00.000+00:00",
        attempt=1,
    )
    return replace(record, **changes)
