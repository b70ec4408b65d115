"""Rules of the learning rate's way through the run, and of who learns otherwise."""

from collections.abc import Iterator

from mai.recipe.breach import Breach, shown
from mai.recipe.group_text import groups_of
from mai.recipe.optimizer import WarmupStableDecay
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach


def warm_up_ends_before_the_run(recipe: Recipe) -> Iterator[Breach]:
    steps, warmup_steps = recipe.train.steps, recipe.optimizer.schedule.warmup_steps
    if warmup_steps >= steps:
        rule = f"the warm-up must end before the run does; use {steps - 1} or less"
        yield breach(recipe, rule, "optimizer.schedule.warmup_steps", "train.steps")


def warm_up_and_decay_do_not_overlap(recipe: Recipe) -> Iterator[Breach]:
    steps, schedule = recipe.train.steps, recipe.optimizer.schedule
    if not isinstance(schedule, WarmupStableDecay) or schedule.warmup_steps >= steps:
        return
    decay_steps = schedule.decay_steps(steps)
    if schedule.warmup_steps + decay_steps > steps:
        rule = (
            f"the decay takes the last {decay_steps} of train.steps={steps}, and the warm-up must end before; "
            f"use optimizer.schedule.warmup_steps={steps - decay_steps} or less"
        )
        paths = ("optimizer.schedule.warmup_steps", "optimizer.schedule.decay_fraction")
        yield Breach(breach(recipe, rule, *paths).message, (*paths, "train.steps"))


def groups_are_written_as_mai_reads_them(recipe: Recipe) -> Iterator[Breach]:
    try:
        groups_of(recipe.optimizer.groups)
    except ValueError as error:
        yield Breach(f"optimizer.groups={shown(error.args[0])}", ("optimizer.groups",))
