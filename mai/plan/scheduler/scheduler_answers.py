"""The block `scheduler` of a plan: what whoever places, stops and restarts the run needs to know, as JSON values."""

from dataclasses import asdict
from typing import Any

from mai.exit_contract import SIGNALS, exit_codes
from mai.plan.placement.wanted import placement
from mai.plan.scheduler.saving import grace, load_seconds
from mai.plan.scheduler.stopping import stopping
from mai.plan.scheduler.world_sizes import world_sizes
from mai.plan.setting.of_recipe import usable_gpus
from mai.plan.setting.setting import Setting
from mai.recipe import Recipe


def answers(
    recipe: Recipe, setting: Setting, *, step_seconds: float, gpus: int | None, gpus_booked: int
) -> dict[str, Any]:
    """All of them; `gpus` is the budget, and where there is none the plan's own size is the largest."""
    in_use = setting.layout.world_size
    needed = grace(recipe, setting, step_seconds)
    return {
        "world_sizes": world_sizes(recipe, setting, most_gpus=usable_gpus(setting.cluster, gpus) or in_use),
        "grace": asdict(needed),
        "stopping": stopping(
            setting.cluster,
            step_seconds=step_seconds,
            every_steps=recipe.checkpoint.every_steps,
            save_seconds=needed.save_seconds,
            load_seconds=load_seconds(recipe, setting),
            gpus_in_use=in_use,
            gpus_booked=gpus_booked,
        ),
        "exit_codes": exit_codes(),
        "signals": [{"signal": name, "effect": effect} for name, effect in SIGNALS.items()],
        "placement": placement(setting),
    }
