"""The border to JSON: what the planner computes, as `--json` prints it and plan-1.json describes it.

Values are frozen dataclasses. A field is a key of the same name, in the same order; a property is no key. The marks
below are the metadata of fields of which that is not all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any

WHERE_ASKED: Mapping[str, Any] = MappingProxyType({"is_left_out": True})
"""No key where the value is None: nobody asked."""

AMONG_THE_OTHERS: Mapping[str, Any] = MappingProxyType({"is_inline": True})
"""Its own keys stand in the place of one."""


def key(name: str) -> Mapping[str, Any]:
    """Under another name than the field's."""
    return MappingProxyType({"key": name})


def its(attribute: str) -> Mapping[str, Any]:
    """This attribute of it stands for the whole."""
    return MappingProxyType({"attribute": attribute})


def published(value: object) -> Any:
    """As dicts, lists, text, numbers and None; TypeError for what JSON has no word for."""
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_keys(value))
    if isinstance(value, Mapping):
        return {name: published(each) for name, each in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [published(each) for each in value]
    raise TypeError(f"{value!r}: neither a dataclass nor a mapping, a list, text or a number")


def _keys(value: Any) -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in fields(value):
        held, marks = getattr(value, field.name), field.metadata
        if marks.get("is_left_out") and held is None:
            continue
        if marks.get("is_inline"):
            found += _keys(held)
            continue
        if "attribute" in marks:
            held = getattr(held, marks["attribute"])
        found.append((marks.get("key", field.name), published(held)))
    return found
