"""A recipe as people read it: one line a field, as it would be typed, and what differs from the defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING

from mai.recipe.breach import shown
from mai.recipe.knobs import active, flat
from mai.recipe.recipe import Recipe, all_fields


def changed(recipe: Recipe) -> Mapping[str, object]:
    """The fields that have a default and hold something else, with that default."""
    values = all_fields(recipe)
    knobs = {path: active(path, values) for path, _ in flat(values)}
    return {
        path: knob.default
        for path, value in flat(values)
        for knob in [knobs[path]]
        if knob is not None and knob.default is not MISSING and knob.default != value
    }


def lines(recipe: Recipe) -> Iterator[str]:
    """`  train.steps=50` for every field, in order; `* ` in front of what differs from its default."""
    defaults = changed(recipe)
    for path, value in flat(all_fields(recipe)):
        default = f"  (default {shown(defaults[path]) or 'empty'})" if path in defaults else ""
        yield f"{'*' if default else ' '} {path}={shown(value)}{default}"
