"""The block `scheduler` of a plan: what whoever places, stops and restarts the run needs to know."""

from dataclasses import dataclass

from mai.exit_contract import End, Signal, exit_codes, signals
from mai.plan.placement.wanted import Placement, placement
from mai.plan.scheduler.saving import Grace, grace, load_seconds
from mai.plan.scheduler.stopping import Stopping, stopping
from mai.plan.scheduler.world_sizes import WorldSize, world_sizes
from mai.plan.setting.of_recipe import usable_gpus
from mai.plan.setting.setting import Setting
from mai.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerAnswers:
    world_sizes: list[WorldSize]
    grace: Grace
    stopping: Stopping
    exit_codes: list[End]
    signals: list[Signal]
    placement: Placement


def answers(
    recipe: Recipe, setting: Setting, *, step_seconds: float, gpus: int | None, gpus_booked: int
) -> SchedulerAnswers:
    """All of them; `gpus` is the budget, and where there is none the plan's own size is the largest."""
    in_use = setting.layout.world_size
    needed = grace(recipe, setting, step_seconds)
    return SchedulerAnswers(
        world_sizes=world_sizes(recipe, setting, most_gpus=usable_gpus(setting.cluster, gpus) or in_use),
        grace=needed,
        stopping=stopping(
            setting.cluster,
            step_seconds=step_seconds,
            every_steps=recipe.checkpoint.every_steps,
            save_seconds=needed.save_seconds,
            load_seconds=load_seconds(recipe, setting),
            gpus_in_use=in_use,
            gpus_booked=gpus_booked,
        ),
        exit_codes=exit_codes(),
        signals=signals(),
        placement=placement(setting),
    )
