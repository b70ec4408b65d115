"""Weights & Biases, in its own process: offline inside the run folder unless wandb finds a key of its own accord, or
its environment says otherwise.

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
        # wandb reads its own variables.
        said, filed = wandb.setup(settings).settings, run.recipe["observe"]["wandb"]
        if "mode" in said.model_fields_set:
            mode = said.mode
        else:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        is_online = mode in ("online", "shared")
        self._run = wandb.init(
            project=said.project or filed["project"],
            id=said.run_id or run.run_id,
            name=said.run_name or filed["name"] or self._folder.path.resolve().name,
            group=said.run_group or filed["group"],
            tags=said.run_tags or filed["tags"],
            dir=self._folder.path,
            config=run.recipe,
            mode=mode,  # type: ignore[arg-type]  # its settings know two old words more
            resume="allow" if is_online else None,
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        place = self._run.url if is_online else self._run.dir
        log.info("wandb writes to %s", "nothing, as WANDB_MODE says" if mode == "disabled" else place)

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
