"""Weights & Biases, in its own process: offline inside the run folder unless wandb finds a key of its own accord.

Upload an offline run later with `wandb sync`, or look at it with `wandb leet`. Steps are an axis of ours, so that a
resumed run may count some of them again, which wandb's own counter refuses.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mai.log import log
from mai.observe.record import Logged, RunEnded, RunStarted, StepRecord
from mai.run_folder import RunFolder

if TYPE_CHECKING:
    from wandb import Run


class WandbSink:
    name = "wandb"

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._run: Run | None = None
        self._exit_code = 1

    def run_started(self, run: RunStarted) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            disable_code=True,
            disable_git=True,
            init_timeout=30.0,
            finish_timeout=3.0,
        )
        wandb.setup(settings)
        is_online = wandb.login(prompt=False, verify=False)
        self._run = wandb.init(
            project="mai",
            id=run.run_id,
            name=run.name,
            dir=self._folder.path,
            config=run.recipe,
            mode="online" if is_online else "offline",
            resume="allow" if is_online else None,
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        log.info("wandb writes to %s", self._run.url if is_online else self._run.dir)

    def record(self, record: StepRecord) -> None:
        assert self._run is not None
        self._run.log({name: value for name, value in asdict(record).items() if value is not None and name != "time"})

    def logged(self, logged: Logged) -> None:
        assert self._run is not None
        self._run.log({**logged.values, "step": logged.step})

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        """Nothing: events stay in the run folder."""

    def run_ended(self, end: RunEnded) -> None:
        self._exit_code = end.code

    def close(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
