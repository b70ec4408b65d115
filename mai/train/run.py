"""A recipe, running in a folder: what it is made of, in the order in which it is needed; `loop.py` tells the story.

    with running(recipe, RunFolder(path), place=place, device=kind) as run:
        for result in run.steps():
            ...                                 # every rank stands here after every step

    Session      who takes part: the ranks, the folder's lease, the signals
    Objective    what is trained for: a batch, and its loss
    Batches      what this rank reads at a position, of data that was verified
    Engine       the model and its optimizer
    Evaluation   when it is judged, and by what
    Guard        keeps or skips a step
    Saver        checkpoints: when, which is being written, which is committed
    Recorder     what happened, for watchers and for the run folder

People use `mai.open_run`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import SupportsFloat

from mai.engine.device import DeviceKind
from mai.engine.engine import Engine
from mai.errors import ExitCode
from mai.objective.choose_objective import objective_of
from mai.objective.interface import Objective
from mai.observe.record import StepRecord
from mai.optimizer.parameter_groups import check_names
from mai.parallel.place import Place
from mai.recipe import Recipe, rules
from mai.resilience.guard import Guard
from mai.resilience.signals import StopRequest
from mai.run_folder import RunFolder
from mai.train import admission, loop
from mai.train.batches import Batches
from mai.train.evaluation import Evaluation
from mai.train.failure import Account, accounted_for
from mai.train.recorder import Recorder
from mai.train.restore import restore
from mai.train.saver import Committed, Saver
from mai.train.session import Session
from mai.train.state import TrainState


@dataclass(kw_only=True, slots=True)
class Run:
    """One rank's end of a run; every rank has one and calls its methods in the same order."""

    recipe: Recipe
    session: Session
    objective: Objective
    batches: Batches
    engine: Engine
    evaluation: Evaluation
    saver: Saver
    recorder: Recorder
    state: TrainState
    """Where it stands: after the last step, or what was loaded."""
    dry_run: bool = False
    guard: Guard = field(default_factory=Guard)
    request: StopRequest = StopRequest.NONE
    """What the outside asked for at the last step."""

    def steps(self, *, before_update: loop.BeforeUpdate | None = None) -> Iterator[StepRecord]:
        """Train from here to the last step. Who leaves the loop early does so on every rank, at the same step; the
        end of the `with` then saves.

        `before_update` is called after each backward pass: it looks at the gradients, or changes them. What it changes
        is not in the recipe: a script that resumes must give the same."""
        self.recorder.refuse_if_ended("run.steps")
        if not self.dry_run:
            yield from loop.steps(self, before_update)
            self.finish_saving()

    def log(self, values: Mapping[str, SupportsFloat]) -> None:
        """Numbers of your own of this step, into all sinks; in the body of the loop, or in `before_update`.

        The first rank's count. Raises UsageError for a name that is a metric of mai's, and for what is no number.

        Example:
            run.log({"norm of layer 0": 0.31})
        """
        self.recorder.log(values)

    @property
    def is_first_rank(self) -> bool:
        """Whether this is the rank that prints; every rank stands in the loop."""
        return self.session.is_first_rank

    def save_if_due(self, *, now: bool = False) -> None:
        """Save at the recipe's interval, or `now`; nothing is written twice for one step."""
        if self.saver.is_due(self.state.step, now=now):
            self.recorder.phase("saving")
            self.saver.begin(self.engine, self.state)
        self._tell(self.saver.poll())

    def finish_saving(self) -> None:
        """Save where the run stands, unless it is saved, and wait until all is committed."""
        self.save_if_due(now=True)
        self._tell(self.saver.finish())

    def _tell(self, done: Committed | None) -> None:
        if done is not None:
            self.recorder.committed(done)

    @property
    def is_complete(self) -> bool:
        """Whether the last step is done."""
        return self.state.step >= self.recipe.train.steps

    @property
    def exit_code(self) -> ExitCode:
        """What the process should tell its scheduler when no error ends it."""
        if self.dry_run or self.is_complete:
            return ExitCode.COMPLETE
        return ExitCode.PREEMPTED if self.request is StopRequest.PREEMPTED else ExitCode.STOPPED


@contextmanager
def running(
    recipe: Recipe,
    folder: RunFolder,
    *,
    place: Place,
    device: DeviceKind,
    attempt: int | None = None,
    dry_run: bool = False,
) -> Iterator[Run]:
    """The run, built and at the newest checkpoint that is whole; when the block ends, saved and accounted for.

    All ranks must call. Joins the other ranks, takes the run folder (RunFolderBusyError if a live process owns it),
    opens the data and builds the model; raises the MaiError that says what is wrong. An exception in the block saves
    nothing, and says so. `attempt` is its number, where whoever started the ranks has begun it; with `dry_run` it takes
    no step."""
    rules.check(recipe, world_size=place.world_size)
    check_names(recipe)
    with (
        accounted_for(folder, place) if attempt is None else nullcontext(Account()) as account,
        Session(recipe, folder, place=place, device=device, attempt=attempt) as session,
    ):
        run = _build(recipe, session, dry_run=dry_run)
        account.standing = run.recorder.standing
        try:
            yield run
            if run.state.step:
                run.finish_saving()
            run.recorder.ended(run.exit_code, dry_run=run.dry_run and not run.is_complete)
            if attempt is None:
                # Nobody else does: a launcher of ours tells of its ranks itself.
                session.event("ended", code=int(run.exit_code), name=run.exit_code.name, step=run.state.step)
        except BaseException as error:
            run.recorder.failed(error)
            raise


def _build(recipe: Recipe, session: Session, *, dry_run: bool) -> Run:
    """In the order in which mistakes are cheapest to find."""
    with ExitStack() as on_failure:
        on_failure.callback(session.close)
        admission.test_kernels(recipe, session)
        objective = objective_of(recipe)
        batches = Batches(recipe, objective, session)
        evaluation = Evaluation(recipe, batches)
        fingerprint = batches.dataset.manifest.fingerprint
        engine = Engine(recipe, session.layout, session.groups(), session.device)
        restored = restore(engine, recipe, session, batches.dataset)
        saver = Saver(recipe, session, data_fingerprint=fingerprint, committed_step=restored.committed_step)
        recorder = Recorder(recipe, session, saver, restored.state)
        on_failure.callback(recorder.close)
        recorder.started(batches)
        on_failure.pop_all()
    return Run(
        recipe=recipe,
        session=session,
        objective=objective,
        batches=batches,
        engine=engine,
        evaluation=evaluation,
        saver=saver,
        recorder=recorder,
        state=restored.state,
        dry_run=dry_run,
    )
