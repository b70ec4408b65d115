"""mai: train frontier language models on Megatron-Core; the same run on a laptop's CPU and on thousands of GPUs.

    import mai
    from recipes.debug.tiny import tiny

    recipe = mai.override(tiny(), ["train.steps=50"])
    with mai.open_run(recipe, "runs/probe") as run:
        for result in run.steps():
            print(result.step, result.loss)

Names load when they are touched, so that `import mai` stays light.
"""

import importlib
from typing import Any

_HOMES = {
    "MaiError": ("mai.errors", "MaiError"),
    "Recipe": ("mai.recipe", "Recipe"),
    "RecipeError": ("mai.errors", "RecipeError"),
    "open_run": ("mai.start", "open_run"),
    "override": ("mai.recipe.override", "apply"),
    "shrink": ("mai.recipe.shrink", "shrink"),
}

__all__ = ["MaiError", "Recipe", "RecipeError", "open_run", "override", "shrink"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mai' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
