"""The checkpoints of a run: when one is due, which is being written, which is committed."""

import time
from dataclasses import dataclass
from pathlib import Path

from mai.checkpoint.manifest import Progress
from mai.checkpoint.save import PendingSave, SaveContext, begin_save
from mai.engine.engine import Engine
from mai.recipe import Recipe, fingerprint
from mai.train.session import Session
from mai.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is complete and durable."""

    step: int
    folder: Path
    seconds: float
    """From the beginning of this save to its commit."""


class Saver:
    """Begins saves and keeps the books: a save that was begun counts for nothing until `poll` or `finish` says that it
    is committed. All ranks call each method, in the same order."""

    def __init__(self, recipe: Recipe, session: Session, *, data_fingerprint: str, committed_step: int | None) -> None:
        """`committed_step`: of the checkpoint that the run goes on from."""
        self._every = recipe.checkpoint.every_steps
        self._context = SaveContext(
            checkpoints=session.folder.checkpoints,
            attempt=session.attempt,
            rank=session.place.rank,
            keep=recipe.checkpoint.keep,
            layout=session.layout.degrees,
            recipe_fingerprint=fingerprint(recipe),
            data_fingerprint=data_fingerprint,
            timeout_seconds=session.timeout_seconds,
        )
        self._pending: PendingSave | None = None
        self._began = 0.0
        self.committed_step = committed_step
        """None where nothing is committed."""
        self.longest_seconds: float | None = None
        """What the slowest save of this attempt took."""

    def is_due(self, step: int, *, now: bool) -> bool:
        """At the recipe's interval, or `now`; nothing is written twice for one step."""
        is_written = step == self.committed_step or (self._pending is not None and step == self._pending.step)
        return not is_written and (now or (self._every is not None and step % self._every == 0))

    def begin(self, engine: Engine, state: TrainState) -> None:
        """Write what the ranks hold. Raises StorageError on every rank when any rank cannot."""
        self._began = time.perf_counter()
        progress = Progress(step=state.step, position=state.position, tokens=state.tokens, updates=engine.updates)
        self._pending = begin_save(engine.shards(), progress, self._context)

    def poll(self) -> Committed | None:
        """What was committed since the last call.

        Nothing is written beside training yet: what was begun is committed here, while all wait."""
        return self.finish()

    def finish(self) -> Committed | None:
        """Wait for what was begun; None if nothing was."""
        if self._pending is None:
            return None
        step, folder = self._pending.step, self._pending.finish()
        self._pending = None
        seconds = time.perf_counter() - self._began
        self.longest_seconds = max(self.longest_seconds or 0.0, seconds)
        self.committed_step = step
        return Committed(step, folder, seconds)
