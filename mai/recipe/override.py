"""`train.steps=50` from the command line -> a new Recipe; every mistake is named at once."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mai.errors import RecipeError
from mai.recipe.breach import Breach
from mai.recipe.explain import explain, not_a_choice, unknown_field, wrong_type
from mai.recipe.knobs import KNOBS, VARIANTS, Knob, active, flat, section_of, value_at
from mai.recipe.recipe import Recipe, all_fields
from mai.recipe.rules import breaches
from mai.written_number import whole_number

_TOO_LARGE = 2**63

_RECIPE = TypeAdapter(Recipe)


def apply(recipe: Recipe, overrides: Sequence[str], *, world_size: int | None = None) -> Recipe:
    """The recipe with every `path=value` in it, checked field by field and by all rules between them.

    Raises RecipeError with every mistake. A rule that looks at a field that is itself in doubt keeps silent.
    """
    typed, mistakes = _split(overrides)
    values = all_fields(recipe)
    # The kind of a section first: it decides which other fields there are.
    for path in sorted(typed, key=lambda path: section_of(path) not in VARIANTS or not path.endswith(".kind")):
        mistakes += _assign(values, path, typed[path])
    changed, invalid = _build(values, all_fields(recipe), typed)
    mistakes += invalid
    in_doubt = {path for mistake in mistakes for path in mistake.paths}
    if changed is not None:
        mistakes += [breach for breach in breaches(changed, world_size) if in_doubt.isdisjoint(breach.paths)]
    if mistakes or changed is None:
        raise RecipeError(*(mistake.message for mistake in mistakes))
    return changed


def _split(overrides: Sequence[str]) -> tuple[dict[str, str], list[Breach]]:
    """The texts by path, and what is not of the form `path=value` or said twice."""
    typed: dict[str, str] = {}
    mistakes = []
    for override in overrides:
        path, equals, text = (part.strip() for part in override.partition("="))
        if not override.isprintable():
            mistakes.append(Breach(f"{json.dumps(override)}: has characters that cannot be printed", (path,)))
        elif not path or not equals:
            mistakes.append(Breach(f"{override}: write it as path=value, such as train.steps=50", ()))
        elif path in typed:
            mistakes.append(Breach(f"{path}={text}: given twice (also {path}={typed[path]}); keep one", (path,)))
        else:
            typed[path] = text
    return typed, mistakes


def _assign(values: dict[str, Any], path: str, text: str) -> list[Breach]:
    """Set one value in place; says what hinders it."""
    section = section_of(path)
    knob = active(path, values) if path in {known for known, _ in KNOBS} else None
    if knob is None:
        kind = value_at(section, values)["kind"] if section in VARIANTS else None
        return [unknown_field(path, f"{path}={text}", kind)]
    try:
        value = _parse(knob, text)
    except ValueError:
        return [Breach(f"{path}={text}: {wrong_type(knob, text)}", (path,))]
    except OverflowError:
        return [Breach(f"{path}={text}: must be below {_TOO_LARGE}", (path,))]
    if section in VARIANTS and knob.variant is None:
        if text not in knob.choices:
            return [not_a_choice(knob, text)]
        _change_kind(values, section, text)
    value_at(section, values)[path.rpartition(".")[2]] = value
    return []


def _change_kind(values: dict[str, Any], section: str, kind: str) -> None:
    """Take the other class of a tagged union with its defaults; what was set and exists there too stays."""
    old = value_at(section, values)
    if kind == old["kind"]:
        return
    set_before = {
        name: value
        for name, value in old.items()
        if name != "kind" and value != KNOBS[f"{section}.{name}", old["kind"]].default
    }
    names = {path.rpartition(".")[2]: knob for (path, variant), knob in KNOBS.items() if variant == kind}
    defaults = {name: knob.default for name, knob in names.items() if knob.default is not MISSING}
    kept = {name: value for name, value in set_before.items() if name in names}
    old.clear()
    old.update({"kind": kind, **defaults, **kept})


def _build(
    values: dict[str, Any], before: dict[str, Any], typed: Mapping[str, str]
) -> tuple[Recipe | None, list[Breach]]:
    """The recipe and what is invalid in it; invalid values stand as they were before, so that the rest can be judged.

    None where that is not possible, as for a field without default in a newly chosen kind of section.
    """
    try:
        return _RECIPE.validate_json(json.dumps(values)), []
    except ValidationError as error:
        invalid = explain(error, typed)
    known = dict(flat(before))
    for path in {path for breach in invalid for path in breach.paths}:
        if path not in known:
            return None, invalid
        value_at(section_of(path), values)[path.rpartition(".")[2]] = known[path]
    return _RECIPE.validate_json(json.dumps(values)), invalid


def _parse(knob: Knob, text: str) -> Any:
    """The text as the knob's type; ValueError where it is none, OverflowError for a number beyond 64 bits."""
    if knob.takes_none and text == "none":
        return None
    if knob.takes_none and text.lower() in ("none", "null"):
        # Else a file of that name, where text is taken.
        raise ValueError(text)
    if knob.type == "array":
        return [_PARSERS[knob.item_type](item.strip()) for item in text.split(",")] if text else []
    return _PARSERS[knob.type](text)


def _whole_number(text: str) -> int:
    number = whole_number(text)
    if abs(number) >= _TOO_LARGE:
        raise OverflowError(text)
    return number


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "integer": _whole_number,
    "number": _finite_number,
    "boolean": _true_or_false,
    "string": str,
}
