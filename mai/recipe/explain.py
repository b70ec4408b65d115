"""What pydantic found wrong with a recipe, in the user's own key names, with the nearest thing that works."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from mai.recipe.breach import Breach, listed, shown
from mai.recipe.knobs import KNOBS, SECTIONS, VARIANTS, Knob
from mai.recipe.other_words import SAID_FOR

_MISSING_FIELD = "missing"
_UNKNOWN_FIELD = "unexpected_keyword_argument"
_NOT_A_SECTION = ("dataclass_type", "dataclass_exact_type")
_UNKNOWN_KIND = ("union_tag_invalid", "union_tag_not_found")
_EMPTY = ("too_short", "string_too_short")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def is_about_a_recipe(error: ValidationError) -> bool:
    return error.title in SECTIONS


def explain(error: ValidationError, typed: Mapping[str, str]) -> list[Breach]:
    """One breach for each thing that is wrong; `typed` holds the texts that the user typed, by path."""
    return [_explain_one(dict(details), error.title, typed) for details in error.errors(include_url=False)]


def _explain_one(details: Mapping[str, Any], title: str, typed: Mapping[str, str]) -> Breach:
    path, item, variant = _place(title, details["loc"])
    value = details["input"]
    given = f"{path}{item}={shown(value) if item else typed.get(path, shown(value))}"
    kind = details["type"]
    if kind == _MISSING_FIELD:
        return Breach(f"{path}: missing, and it has no default", (path,))
    if kind == _UNKNOWN_FIELD:
        return unknown_field(path, given, variant)
    if kind in _UNKNOWN_KIND:
        return not_a_choice(KNOBS[f"{path}.kind", None], typed.get(f"{path}.kind", _kind_of(value)))
    if kind in _NOT_A_SECTION:
        return Breach(f"{path}: must be a {details['ctx']['class_name']}, not {type(value).__name__}", (path,))
    knob = KNOBS.get((path, variant)) or KNOBS.get((path, None))
    if knob is None:
        return Breach(f"{given}: {details['msg']}", (path,))
    return Breach(f"{given}: {_rule(knob, kind, value)}", (path,))


def _kind_of(section: Any) -> str:
    """What stands for a section's kind: in JSON its own word, in Python the class."""
    if isinstance(section, dict):
        return shown(section.get("kind"))
    return shown(section) if isinstance(section, str) else type(section).__name__


def _place(title: str, location: Sequence[str | int]) -> tuple[str, str, str | None]:
    """(path of the field, "[2]" for an item of a list, kind of its section) from pydantic's own words."""
    path, variant = SECTIONS[title]
    item = ""
    for step in location:
        if isinstance(step, int):
            item = f"[{step}]"
        elif step in VARIANTS.get(path, ()):
            variant = step
        else:
            path = f"{path}.{step}" if path else step
    return path, item, variant


def _rule(knob: Knob, kind: str, value: Any) -> str:
    if kind in _OUT_OF_RANGE:
        return f"must be {knob.range_words}{_way_out(knob, value)}"
    if kind in _EMPTY:
        return "must not be empty"
    if kind == "tuple_type":
        return "must be a tuple"
    return wrong_type(knob, shown(value))


def _way_out(knob: Knob, value: float) -> str:
    nearest = knob.nearest(value)
    if nearest is not None:
        return f"; the nearest valid value is {shown(nearest)}"
    return "" if knob.default in (None, MISSING) else f"; the default is {shown(knob.default)}"


def wrong_type(knob: Knob, text: str) -> str:
    """Says what the knob takes instead, with the nearest such value where there is one."""
    nearest = _nearest_choice(knob, text) if knob.type != "integer" else _nearest_whole_number(knob, text)
    return f"must be {knob.type_words}" + (f"; the nearest valid value is {nearest}" if nearest else "")


def _nearest_choice(knob: Knob, text: str) -> str:
    choices = ["true", "false"] if knob.type == "boolean" else list(knob.choices)
    return next(iter(get_close_matches(text.lower(), choices + ["none"] * knob.takes_none, n=1)), "")


def _nearest_whole_number(knob: Knob, text: str) -> str:
    if knob.takes_none and text.lower() == "none":
        return "none"
    try:
        value = float(text)
    except ValueError:
        return ""
    if not math.isfinite(value):
        return ""
    nearest = knob.nearest(round(value))
    return shown(round(value) if nearest is None else nearest)


def not_a_choice(knob: Knob, text: str) -> Breach:
    return Breach(f"{knob.path}={text}: {wrong_type(knob, text)}", (knob.path,))


def unknown_field(path: str, given: str, kind: str | None) -> Breach:
    """No such path, or not in this `kind` of its section; names the nearest that there is."""
    kinds = [variant for known, variant in KNOBS if known == path and variant]
    if kinds:
        section = path.rpartition(".")[0]
        wanted = listed([f"{section}.kind={other}" for other in kinds])
        return Breach(f"{given}: {section}.kind={kind} has no such field; it belongs to {wanted}", (path,))
    below = {known for known, _ in KNOBS if known.startswith(f"{path}.")}
    if below:
        fields = ", ".join(sorted(below, key=lambda known: (not known.endswith(".kind"), known)))
        return Breach(f"{given}: is a section; set one of its fields: {fields}", (path,))
    near = _near_paths(path)
    if near:
        return Breach(f"{given}: no such field; did you mean {listed(near)}?", (path, *near))
    sections = dict.fromkeys(known.partition(".")[0] for known, _ in KNOBS)
    return Breach(f"{given}: no such field; a path begins with {listed(list(sections))}", (path,))


def _near_paths(path: str) -> list[str]:
    """Paths that end in the same name; else the one spelled most alike, as a whole or in its last name."""
    paths = list(dict.fromkeys(known for known, _ in KNOBS))
    last_names = {known: known.rpartition(".")[2] for known in paths}
    name = path.rpartition(".")[2]
    names = (name, SAID_FOR.get(name.lower(), name))
    same_name = [known for known in paths if last_names[known] in names]
    if same_name:
        return same_name
    alike = get_close_matches(path, paths, n=1, cutoff=0.75)
    if alike:
        return alike
    alike_names = get_close_matches(name, list(last_names.values()), n=1, cutoff=0.75)
    return [known for known in paths if last_names[known] in alike_names]
