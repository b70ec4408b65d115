"""Run: a recipe, running in a folder. Builds everything in the order in which it is needed; `loop.py` tells the story.

    with Run(recipe, RunFolder(path), place=place, device=kind) as run:
        for result in run.steps():
            ...                                 # every rank stands here after every step

All of it is public to the loop and to nobody else; people use `mai.open_run`.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mai.batch import Batch
from mai.checkpoint import resume, store
from mai.checkpoint.manifest import Manifest, Progress
from mai.checkpoint.save import SaveContext, save
from mai.collectives import collect_json, first_rank_does, first_told, max_int, tell_json
from mai.data.loader import batch_positions, held_out_sequences, open_dataset, training_sequences
from mai.engine.device import DeviceKind, open_device
from mai.engine.engine import Engine, Gradients
from mai.engine.groups import build_groups, join_world, leave_world
from mai.errors import CheckpointError, DataError, ExitCode, RecipeError
from mai.evaluate import bits_per_byte
from mai.log import log
from mai.model.flops import flops_per_token
from mai.objective.choose import objective_of
from mai.observe.observer import Observer
from mai.observe.record import RunEnded, StepRecord
from mai.observe.sinks.choose import open_sinks
from mai.optimizer.schedule import learning_rate_at
from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.recipe import Recipe, fingerprint, rules, to_dict
from mai.resilience.guard import Guard, Verdict
from mai.resilience.signals import StopRequest, StopSignals
from mai.run_folder import RunFolder, utc_now
from mai.train import admission, loop, story
from mai.train.foreign_errors import as_mai_error
from mai.train.state import TrainState

# Above any legal pause of a peer (a save, a slow file system): a peer that is dead is noticed by its closed socket.
_PEER_TIMEOUT_SECONDS = 600.0
_STATUS_SECONDS = 1.0


class Run:
    """One rank's end of a run; every rank makes one and calls the same methods in the same order.

    Making it joins the other ranks, takes the run folder (RunFolderBusyError if a live process owns it), builds the
    model, opens the data and loads the newest checkpoint that is whole. Raises the MaiError that says what is wrong.
    With `dry_run` it then takes no step. Leave it through `with`: that says in the run folder how it ended.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        place: Place,
        device: DeviceKind,
        attempt: int | None = None,
        dry_run: bool = False,
    ) -> None:
        rules.check(recipe, world_size=place.world_size)
        self.recipe, self.folder, self.place = recipe, folder, place
        self.layout = Layout.of(recipe.parallel, world_size=place.world_size)
        self.dry_run = dry_run
        self.guard = Guard()
        self.state = TrainState()
        self.stop_request = StopRequest.NONE
        self.objective = objective_of(recipe)
        self.committed_step: int | None = None
        self.save_seconds: float | None = None
        self._status_written = 0.0
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._resources.close)
            self._open(device, attempt)
            on_failure.pop_all()

    def _open(self, device: DeviceKind, attempt: int | None) -> None:
        recipe, place = self.recipe, self.place
        self._signals = self._resources.enter_context(StopSignals())
        self.device = open_device(device, place)
        join_world(backend=self.device.backend, place=place, timeout_seconds=_PEER_TIMEOUT_SECONDS)
        self._resources.callback(leave_world)
        self.attempt: int = self._first_rank_does("attempt", lambda: self._take_folder(attempt))
        self._same_recipe_everywhere()
        admission.test_kernels(self, timeout_seconds=_PEER_TIMEOUT_SECONDS)

        self.dataset = open_dataset(recipe)
        self._verify_data()
        self._train = training_sequences(self.dataset, recipe)
        self._held_out = held_out_sequences(self.dataset, recipe)
        held_out_targets = self._held_out.at(range(recipe.evaluate.sequences))[:, 1:]
        self._held_out_bytes = self.dataset.token_text().num_bytes(held_out_targets)
        groups = build_groups(self.layout, timeout_seconds=_PEER_TIMEOUT_SECONDS)
        self.engine = Engine(recipe, self.layout, groups, self.device)
        self._resume()
        self._first_rank_does("run.json", self._describe)
        sinks = open_sinks(recipe.observe, self.folder) if self.is_first_rank else []
        self._observer = self._resources.enter_context(Observer(sinks))
        self._observer.run_started(story.started(self))
        self._write_status("ready", at_once=True)

    @property
    def is_first_rank(self) -> bool:
        return self.place.rank == 0

    def steps(self) -> Iterator[StepRecord]:
        """Train from here to the last step. Who leaves the loop early does so on every rank, at the same step; the
        end of the `with` then saves."""
        if not self.dry_run:
            yield from loop.steps(self)
            self.save_if_due(now=True)

    # What the loop asks for, step by step.

    def batch(self) -> Batch:
        """This data-parallel rank's sequences of the next step."""
        return self.objective.batch(self._train, self._share(self.state.position, self.recipe.batch_sequences))

    def learning_rate(self) -> float:
        return learning_rate_at(self.state.step, optimizer=self.recipe.optimizer, steps=self.recipe.train.steps)

    def seconds_since(self, started: float) -> float:
        self.device.synchronize()
        return time.perf_counter() - started

    def evaluate_if_due(self) -> bits_per_byte.HeldOut | None:
        every, step = self.recipe.evaluate.every_steps, self.state.step
        if step == self.recipe.train.steps or (every is not None and step % every == 0):
            self._write_status("evaluating", at_once=True)
            positions = self._share(0, self.recipe.evaluate.sequences)
            return bits_per_byte.evaluate(
                self.engine,
                self.objective.batch(self._held_out, positions),
                num_bytes=self._held_out_bytes,
            )
        return None

    def observe(
        self,
        gradients: Gradients,
        verdict: Verdict,
        *,
        learning_rate: float,
        seconds: float,
        held_out: bits_per_byte.HeldOut | None,
    ) -> StepRecord:
        tokens_per_second = self.recipe.train.batch_tokens / seconds
        flops_per_second = tokens_per_second * flops_per_token(self.recipe.model, self.recipe.data.sequence_length)
        peak = self.device.peak_flops_per_second if self.recipe.precision.compute == "bf16" else None
        record = StepRecord(
            step=self.state.step,
            loss=gradients.loss,
            multi_token_loss=gradients.multi_token_loss,
            gradient_norm=gradients.norm,
            learning_rate=learning_rate,
            tokens=self.state.tokens,
            step_seconds=seconds,
            tokens_per_second=tokens_per_second,
            model_flops_per_second=flops_per_second,
            utilisation=flops_per_second / (peak * self.place.world_size) if peak else None,
            memory_bytes=self.device.peak_memory_bytes(),
            kept=verdict is Verdict.KEEP,
            held_out_loss=held_out.loss if held_out else None,
            held_out_bits_per_byte=held_out.bits_per_byte if held_out else None,
            position=self.state.position,
            time=utc_now(),
            attempt=self.attempt,
        )
        self._observer.record(record)
        if verdict is Verdict.SKIP:
            self.say("update skipped", step=record.step, loss=record.loss, gradient_norm=record.gradient_norm)
        self._write_status("training", tokens_per_second=tokens_per_second)
        return record

    def should_stop(self) -> bool:
        """Whether any rank was told to stop; all ranks learn the same answer at the same step."""
        request = self._signals.request()
        if self.is_first_rank and self.folder.stop.exists():
            request = max(request, StopRequest.STOPPED)
        self.stop_request = StopRequest(max_int(request, device=self.device.torch_device))
        if self.stop_request is StopRequest.SAVE:
            self.stop_request = StopRequest.NONE
            self._signals.forget_save()
            self.save_if_due(now=True)
        return self.stop_request is not StopRequest.NONE

    def save_if_due(self, *, now: bool = False) -> None:
        """Save at the recipe's interval, or `now`; nothing is written twice for one step."""
        every, step = self.recipe.checkpoint.every_steps, self.state.step
        if self.committed_step == step or not (now or (every is not None and step % every == 0)):
            return
        self._write_status("saving", at_once=True)
        started = time.perf_counter()
        progress = Progress(
            step=step, position=self.state.position, tokens=self.state.tokens, updates=self.engine.updates
        )
        folder = save(self.engine.shards(), progress, self._save_context())
        took = time.perf_counter() - started
        self.save_seconds = max(self.save_seconds or 0.0, took)
        self.committed_step = step
        self.say("checkpoint committed", step=step, folder=folder.name, seconds=round(took, 3))
        self._write_status("training", at_once=True)

    # What the run says of itself.

    def say(self, kind: str, **fields: object) -> None:
        """One line in the events file, on the first rank."""
        if self.is_first_rank:
            self.folder.event(self.attempt, kind, **fields)
            self._observer.event(kind, **fields)

    @property
    def exit_code(self) -> ExitCode:
        """What the process should tell its scheduler when no error ends it."""
        if self.dry_run or self.state.step >= self.recipe.train.steps:
            return ExitCode.COMPLETE
        return ExitCode.PREEMPTED if self.stop_request is StopRequest.PREEMPTED else ExitCode.STOPPED

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._give_up(error)
            return
        try:
            self._finish()
        except BaseException as failure:
            self._give_up(failure)
            raise

    def _finish(self) -> None:
        """Save, say how it ended, and let go of the folder, the ranks and the signals; all ranks call."""
        if self.state.step:
            self.save_if_due(now=True)
        end = story.good_end(
            self.exit_code,
            step=self.state.step,
            steps=self.recipe.train.steps,
            last_committed_step=self.committed_step,
        )
        if self.is_first_rank:
            self.folder.write_terminal(self.attempt, end)
            self.folder.stop.unlink(missing_ok=True)
        self._observer.run_ended(RunEnded(code=end.code, name=end.name, step=end.step, message=end.suggestion))
        self._write_status(end.name.lower(), at_once=True)
        # The first rank's process holds the store that all meet in: nobody leaves before all are done.
        tell_json(None, key="end", timeout_seconds=_PEER_TIMEOUT_SECONDS)
        self._resources.close()

    def _give_up(self, error: BaseException) -> None:
        """Tell the watchers. No other rank is waited for: it may be the one that is gone."""
        named = as_mai_error(error)
        code, message = (named.code, str(named)) if named else (ExitCode.CRASH, f"{type(error).__name__}: {error}")
        self._observer.run_ended(RunEnded(code=code, name=code.name, step=self.state.step, message=message))
        self._observer.close()
        # A rank among others ends now, and with it all that it holds; a notebook goes on.
        if self.place.world_size == 1:
            self._resources.close()

    def _share(self, position: int, num_sequences: int) -> range:
        return batch_positions(
            position,
            batch_sequences=num_sequences,
            data_rank=self.engine.groups.data_rank,
            data_ranks=self.layout.data,
        )

    def _first_rank_does(self, what: str, action):  # type: ignore[no-untyped-def]
        return first_rank_does(action, key=f"first/{what}", timeout_seconds=_PEER_TIMEOUT_SECONDS)

    def _take_folder(self, attempt: int | None) -> int:
        self.folder.create()
        # The lease first: a process that does not get it leaves no trace.
        self._resources.enter_context(self.folder.lease(attempt or self.folder.last_attempt() + 1))
        number = attempt or self.folder.begin_attempt()
        store.sweep(self.folder.checkpoints)
        old = self.folder.read_json("recipe.json")
        changed = story.changed_training(old, to_dict(self.recipe)) if old else []
        if changed and store.committed_steps(self.folder.checkpoints):
            raise RecipeError(
                *changed, f"{self.folder.path} keeps what it trains; give the changed recipe another --run folder"
            )
        self.folder.write_json("recipe.json", to_dict(self.recipe))
        self.folder.event(number, "started", recipe=self.recipe.name, ranks=self.place.world_size, pid=os.getpid())
        return number

    def _verify_data(self) -> None:
        """Every byte of the data is read and compared by one rank or another; DataError on all if any differs."""
        own: str | None = None
        try:
            self.dataset.verify(part=self.place.rank, parts=self.place.world_size)
        except DataError as error:
            own = str(error)
        if damage := first_told(own, key="data", timeout_seconds=_PEER_TIMEOUT_SECONDS):
            raise DataError(damage)

    def _same_recipe_everywhere(self) -> None:
        found = collect_json(fingerprint(self.recipe), key="recipe", timeout_seconds=_PEER_TIMEOUT_SECONDS) or [""]
        others = [rank for rank, other in enumerate(found) if other != found[0]]
        if others := tell_json(others, key="recipe/others", timeout_seconds=_PEER_TIMEOUT_SECONDS):
            raise RecipeError(
                f"ranks {', '.join(map(str, others))} read another recipe than rank 0: "
                "give every rank the same command line and the same code"
            )

    def _resume(self) -> None:
        manifest = resume.resume(
            self.folder.checkpoints,
            self.engine.shards(),
            check=self._check_belongs,
            leave_out=self._leave_out,
            timeout_seconds=_PEER_TIMEOUT_SECONDS,
        )
        if manifest is None:
            self._start_from()
            return
        progress = manifest.progress
        self.engine.finish_load(updates=progress.updates)
        self.state = TrainState(step=progress.step, position=progress.position, tokens=progress.tokens)
        self.committed_step = progress.step
        if self.is_first_rank:
            self.folder.event(self.attempt, "resumed", step=progress.step, saved_by=manifest.layout)
            log.info("resumes after step %d", progress.step)

    def _start_from(self) -> None:
        """Take the weights of the run that the recipe names, and nothing else of it."""
        if self.recipe.checkpoint.start_from is None:
            return
        other = RunFolder(Path(self.recipe.checkpoint.start_from))
        manifest = resume.resume(
            other.checkpoints,
            [shard.weight_only() for shard in self.engine.shards()],
            check=lambda _: None,
            leave_out=self._leave_out,
            timeout_seconds=_PEER_TIMEOUT_SECONDS,
            key="start_from",
        )
        if manifest is None:
            raise CheckpointError(f"checkpoint.start_from={other.path}: holds no checkpoint")
        self.engine.finish_load(updates=0)
        if self.is_first_rank:
            step = manifest.progress.step
            self.folder.event(self.attempt, "weights taken", run=str(other.path), step=step)
            log.info("starts from the weights of %s after step %d", other.path, step)

    def _leave_out(self, step: int, damage: str) -> None:
        if self.is_first_rank:
            self.folder.event(self.attempt, "checkpoint left out", step=step, damage=damage)
            log.warning("checkpoint of step %d is left out: %s", step, damage)

    def _check_belongs(self, manifest: Manifest) -> None:
        if manifest.data_fingerprint != self.dataset.manifest.fingerprint:
            raise CheckpointError(
                f"the data under {self.recipe.data.folder} is not what this run has read so far; restore it "
                "(mai prepare makes the same from the same documents), or start another --run folder"
            )

    def _save_context(self) -> SaveContext:
        return SaveContext(
            checkpoints=self.folder.checkpoints,
            attempt=self.attempt,
            rank=self.place.rank,
            keep=self.recipe.checkpoint.keep,
            layout=self.layout.degrees,
            recipe_fingerprint=fingerprint(self.recipe),
            data_fingerprint=self.dataset.manifest.fingerprint,
            timeout_seconds=_PEER_TIMEOUT_SECONDS,
        )

    def _describe(self) -> None:
        self.folder.write_json("run.json", story.description(self, self.folder.read_json("run.json") or {}))
        # With its tokenizer the run folder can speak without the data it was trained on.
        copy = self.folder.tokenizer.with_suffix(".tmp")
        shutil.copyfile(self.dataset.folder / "tokenizer.json", copy)
        copy.replace(self.folder.tokenizer)

    def _write_status(self, phase: str, *, tokens_per_second: float | None = None, at_once: bool = False) -> None:
        now = time.monotonic()
        if not self.is_first_rank or not (at_once or now - self._status_written > _STATUS_SECONDS):
            return
        self._status_written = now
        self.folder.write_json("status.json", story.status(self, phase, tokens_per_second=tokens_per_second))
