"""The training loop: what happens in a step, in the order in which it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mai.engine.open_gradients import OpenGradients
from mai.observe.record import StepRecord
from mai.optimizer.schedule import learning_rate_at
from mai.resilience.guard import Verdict
from mai.resilience.signals import StopRequest

if TYPE_CHECKING:
    from mai.train.run import Run

BeforeUpdate = Callable[[OpenGradients], object]
"""Looks at a step's gradients, or changes them, before the guard and the optimizer do; on every rank alike."""


def steps(run: Run, before_update: BeforeUpdate | None) -> Iterator[StepRecord]:
    """Train to the last step, yielding each step's record; leave the loop to stop early. All ranks must iterate."""
    recipe, engine, objective, recorder = run.recipe, run.engine, run.objective, run.recorder
    while run.state.step < recipe.train.steps:
        started = time.perf_counter()
        recorder.begin_step()
        step = run.state.step + 1
        gradients = engine.forward_backward(run.batches.training(run.state.position), objective.loss)
        if before_update is not None:
            before_update(engine.open_gradients(gradients, step=step))
            gradients = engine.with_norm_anew(gradients)
        verdict = run.guard.judge(step=step, is_finite=gradients.is_finite)
        learning_rate = learning_rate_at(run.state.step, optimizer=recipe.optimizer, steps=recipe.train.steps)
        if verdict is Verdict.KEEP:
            engine.apply(gradients, learning_rate=learning_rate)
        run.state = run.state.advanced(recipe)
        run.session.device.synchronize()
        seconds = time.perf_counter() - started
        held_out = None
        if run.evaluation.is_due(run.state.step):
            recorder.phase("evaluating")
            held_out = run.evaluation.judge(engine)
        record = recorder.step(
            run.state, gradients, verdict, learning_rate=learning_rate, seconds=seconds, held_out=held_out
        )
        run.request = run.session.request()
        run.save_if_due(now=run.request is not StopRequest.NONE)
        yield record
        if run.request.ends:
            return
