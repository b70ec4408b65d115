"""The training loop: what happens in a step, in the order in which it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mai.observe.record import StepRecord
from mai.resilience.guard import Verdict

if TYPE_CHECKING:
    from mai.train.run import Run


def steps(run: Run) -> Iterator[StepRecord]:
    """Train to the last step, yielding each step's record; leave the loop to stop early. All ranks must iterate."""
    while run.state.step < run.recipe.train.steps:
        started = time.perf_counter()
        gradients = run.engine.forward_backward(run.batch(), run.objective.loss)
        verdict = run.guard.judge(step=run.state.step + 1, is_finite=gradients.is_finite)
        learning_rate = run.learning_rate()
        if verdict is Verdict.KEEP:
            run.engine.apply(gradients, learning_rate=learning_rate)
        run.state = run.state.advanced(run.recipe)
        seconds = run.seconds_since(started)
        held_out = run.evaluate_if_due()
        record = run.observe(gradients, verdict, learning_rate=learning_rate, seconds=seconds, held_out=held_out)
        should_stop = run.should_stop()
        run.save_if_due(now=should_stop)
        yield record
        if should_stop:
            return
