"""Writes down what happens to a run, on its first rank: run.json, status.json, events, and a record of each step."""

import shutil
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

from torch import Tensor

from mai.data.dataset_manifest import TOKENIZER_NAME
from mai.data.token_roles import find_roles
from mai.data.tokenizer import read_tokenizer
from mai.engine.engine import Gradients
from mai.errors import ExitCode, UsageError
from mai.evaluate.bits_per_byte import HeldOut
from mai.log import log
from mai.model.flops import flops_per_token
from mai.observe.observer import Observer
from mai.observe.record import OWN_NAMES, Logged, RunEnded, StepRecord
from mai.observe.sinks.choose_sinks import open_sinks
from mai.recipe import Recipe
from mai.resilience.guard import Verdict
from mai.run_folder import DRY_RUN, utc_now
from mai.train import records
from mai.train.batches import Batches
from mai.train.failure import code_of, message_of
from mai.train.saver import Committed, Saver
from mai.train.session import Session
from mai.train.state import TrainState

_STATUS_SECONDS = 1.0


class Recorder:
    """Watchers and files of one run; on all ranks but the first every method costs nothing.

    `state` is the run's, told after each step."""

    def __init__(self, recipe: Recipe, session: Session, saver: Saver, state: TrainState) -> None:
        self._recipe, self._session, self._saver = recipe, session, saver
        self.state = state
        self._status_written = 0.0
        self._phase = "start"
        self._is_in_step = False
        self._ended: str | None = None
        self._logged: dict[str, float] = {}
        sinks = open_sinks(recipe.observe, session.folder) if session.is_first_rank else []
        self._observer = Observer(sinks)

    def started(self, batches: Batches) -> None:
        """Before the first step; all ranks must call."""
        run_id: str = self._session.first_rank_does("run.json", lambda: self._describe(batches))
        self._observer.run_started(records.started(self._recipe, self._session, run_id=run_id, step=self.state.step))
        self.phase("ready")

    def _describe(self, batches: Batches) -> str:
        folder, manifest = self._session.folder, batches.dataset.manifest
        tokenizer = batches.dataset.folder / TOKENIZER_NAME
        folder.undo_metrics(after=self.state.step)
        described = records.description(
            self._recipe,
            self._session,
            data_fingerprint=manifest.fingerprint,
            roles=find_roles(read_tokenizer(tokenizer), self._recipe.data.tokens, tokenizer),
            old=folder.read_json("run.json") or {},
        )
        folder.write_json("run.json", described)
        # With its tokenizer the run folder can speak without the data it was trained on.
        copy = folder.tokenizer.with_suffix(".tmp")
        shutil.copyfile(tokenizer, copy)
        copy.replace(folder.tokenizer)
        return str(described["run_id"])

    def begin_step(self) -> None:
        """What is logged from here on is of the step that begins."""
        self._is_in_step = True

    def refuse_if_ended(self, what: str) -> None:
        """Raises UsageError: nobody reads, or counts, what comes now."""
        if self._ended:
            raise UsageError(f"{what}: the run has ended; call it inside of the `with` block")

    def log(self, values: Mapping[str, SupportsFloat]) -> None:
        """A script's numbers of the step that goes on, or was done last. Raises UsageError on every rank."""
        self.refuse_if_ended("run.log")
        self._logged.update(checked(values))
        if not self._is_in_step:
            self._tell_logged()

    def _tell_logged(self) -> None:
        if self._logged:
            step = self.state.step + 1 if self._is_in_step else self.state.step
            self._observer.logged(Logged(step=step, attempt=self._session.attempt, time=utc_now(), values=self._logged))
        self._logged = {}

    def phase(self, name: str) -> None:
        """What the run does now, in status.json at once."""
        self._write_status(name, tokens_per_second=None, at_once=True)

    def step(
        self,
        state: TrainState,
        gradients: Gradients,
        verdict: Verdict,
        *,
        learning_rate: float,
        seconds: float,
        held_out: HeldOut | None,
    ) -> StepRecord:
        """Record the step that led to `state`."""
        self.state = state
        recipe, device = self._recipe, self._session.device
        tokens_per_second = recipe.train.batch_tokens / seconds
        flops_per_second = tokens_per_second * flops_per_token(recipe.model, recipe.data.sequence_length)
        peak = device.peak_flops_per_second(recipe.precision.format.name)
        record = StepRecord(
            step=state.step,
            loss=gradients.loss,
            multi_token_loss=gradients.multi_token_loss,
            gradient_norm=gradients.norm,
            expert_imbalance=gradients.expert_imbalance,
            learning_rate=learning_rate,
            tokens=state.tokens,
            step_seconds=seconds,
            tokens_per_second=tokens_per_second,
            model_flops_per_second=flops_per_second,
            utilisation=flops_per_second / (peak * self._session.place.world_size) if peak else None,
            memory_bytes=device.peak_memory_bytes(),
            kept=verdict is Verdict.KEEP,
            held_out_loss=held_out.loss if held_out else None,
            held_out_bits_per_byte=held_out.bits_per_byte if held_out else None,
            position=state.position,
            time=utc_now(),
            attempt=self._session.attempt,
        )
        self._observer.record(record)
        self._is_in_step = False
        self._tell_logged()
        if verdict is Verdict.SKIP:
            self.event("update skipped", step=record.step, loss=record.loss, gradient_norm=record.gradient_norm)
        self._write_status("training", tokens_per_second=tokens_per_second, at_once=False)
        return record

    def committed(self, done: Committed) -> None:
        """A checkpoint is there."""
        self.event("checkpoint committed", step=done.step, folder=done.folder.name, seconds=round(done.seconds, 3))
        self.phase("training")

    def event(self, kind: str, /, **fields: object) -> None:
        """One line in the events file, and a word to the watchers."""
        self._session.event(kind, **fields)
        self._observer.event(kind, **fields)

    def standing(self) -> dict[str, Any]:
        """Where this rank stands, in the words of status.json, which is older and the first rank's."""
        committed = self._saver.committed_step
        return {"phase": self._phase, "step": self.state.step, "last_committed_step": committed}

    def ended(self, code: ExitCode, *, dry_run: bool) -> None:
        """Nothing went wrong."""
        end = records.good_end(
            code,
            step=self.state.step,
            steps=self._recipe.train.steps,
            last_committed_step=self._saver.committed_step,
            dry_run=dry_run,
        )
        if self._session.is_first_rank:
            self._session.folder.write_terminal(self._session.attempt, end)
        self._tell_end(code, end.suggestion)
        self.phase(DRY_RUN if dry_run else end.name.lower())
        self.close()

    def failed(self, error: BaseException) -> None:
        """Tell the watchers what ended the run, and what that costs; nothing is saved, and no rank is waited for.

        status.json says in which phase that was, and how it ended; why, says the attempt's terminal file."""
        code, step, committed = code_of(error), self.state.step, self._saver.committed_step or 0
        first_lost = committed + 1
        steps = f"step {step}" if step == first_lost else f"steps {first_lost} to {step}"
        lost = f"; nothing is saved of {steps}" if step >= first_lost else ""
        self._tell_end(code, message_of(error) + lost)
        try:
            self.phase(self._phase)
        except Exception as failure:  # noqa: BLE001 (the first error is the one to tell)
            log.warning("status.json could not be written: %s", failure)
        self.close()

    def _tell_end(self, code: ExitCode, message: str) -> None:
        # What the step that failed had logged says most about it, also where the script caught its error.
        self._tell_logged()
        self._observer.run_ended(RunEnded(code=code, name=code.name, step=self.state.step, message=message))
        self._ended = f"{code.name} ({int(code)})"

    def close(self) -> None:
        """Let the watchers finish; may be called twice."""
        self._observer.close()

    def _write_status(self, phase: str, *, tokens_per_second: float | None, at_once: bool) -> None:
        now, self._phase = time.monotonic(), phase
        if not self._session.is_first_rank or not (at_once or now - self._status_written > _STATUS_SECONDS):
            return
        self._status_written = now
        status = records.status(
            phase,
            self.state,
            steps=self._recipe.train.steps,
            committed_step=self._saver.committed_step,
            save_seconds=self._saver.longest_seconds,
            tokens_per_second=tokens_per_second,
            attempt=self._session.attempt,
            ended=self._ended,
        )
        self._session.folder.write_json("status.json", status)


def checked(values: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """What a script logs, as numbers under names of its own; UsageError where it is not that."""
    if not isinstance(values, Mapping):
        raise UsageError(f"run.log takes names with their numbers, {{...}}; this is a {type(values).__name__}")
    found = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name or not name.isprintable():
            raise UsageError(f"run.log: {name!r} is no name; use text that can be printed")
        if name in OWN_NAMES:
            raise UsageError(f"run.log: {name} is a metric of mai's own; call yours otherwise, such as my_{name}")
        try:
            if isinstance(value, str | bytes):
                raise TypeError("it is text")
            found[name] = float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"run.log: {name}: {type(value).__name__} is no number ({error})") from error
    return found
