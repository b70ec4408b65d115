"""The learning rate as a pure function of the step."""

import math

from mai.recipe import Cosine, OptimizerConfig, WarmupStableDecay


def learning_rate_at(step: int, *, optimizer: OptimizerConfig, steps: int) -> float:
    """The rate of the update that follows `step` finished ones; `steps` is the length of the run."""
    schedule = optimizer.schedule
    if step < schedule.warmup_steps:
        return optimizer.learning_rate * (step + 1) / schedule.warmup_steps
    fraction = _cosine(step, schedule, steps) if isinstance(schedule, Cosine) else _decay(step, schedule, steps)
    return optimizer.learning_rate * fraction


def _cosine(step: int, schedule: Cosine, steps: int) -> float:
    """SGDR (arXiv 1608.03983), equation 5, one period after the warm-up."""
    progress = (step - schedule.warmup_steps) / max(1, steps - 1 - schedule.warmup_steps)
    return schedule.final_fraction + (1 - schedule.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _decay(step: int, schedule: WarmupStableDecay, steps: int) -> float:
    decay_steps = schedule.decay_steps(steps)
    if decay_steps == 0:
        return 1.0
    # The end is behind the last step: at rate 0 a batch would be read for nothing.
    remaining = (steps - step) / decay_steps
    return schedule.final_fraction + (1 - schedule.final_fraction) * min(1.0, max(0.0, remaining))
