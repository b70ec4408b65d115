"""A TOML file as a frozen dataclass: a key is a field, a value may stand with its source.

All mistakes are named at once, with the path of their key.

    gpus_per_node = 8
    [scale_out]
    gb_per_second = { value = 50, source = "ConnectX-7, 400 Gb/s" }
"""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mai.errors import PlanError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_A_KEY = {"is_key": False}
"""Metadata of a field that no file sets."""

MAY_BE_ZERO = {"least": 0}
"""Metadata of a number that may be 0; all others are above it. `least` and `most` may be other numbers too, and text
may be `one_of` some words."""

Kind = TypeVar("Kind")

_TOO_LARGE = 2**63
_WORDS = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}


@dataclass(slots=True)
class Findings:
    """What reading a file brings to light besides its values."""

    violations: list[str] = field(default_factory=list)
    """Every mistake, one line each, with the path of its key."""

    sources: dict[str, str] = field(default_factory=dict)
    """Where values come from, by the path of their key."""


def read_table(file: Path) -> dict[str, Any]:
    """The whole file as Python's own types; raises OSError where it cannot be opened, PlanError where it is no TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{file}: not TOML: {error}") from None


def build(
    kind: type[Kind], table: Mapping[str, Any], findings: Findings, *, within: str = "", **given: Any
) -> Kind | None:
    """The dataclass that a table spells out; None where something that it needs is missing or wrong.

    A field whose metadata has `named` takes text: the function there turns the name into the value, or raises
    PlanError. `within` is the path of the table in its file, such as `scale_out.`; `given` are fields without a key.
    """
    types = get_type_hints(kind)
    keys = {each.name: each for each in fields(kind) if each.metadata.get("is_key", True)}  # type: ignore[arg-type]
    findings.violations += _unknown_keys(table, keys, within)
    for name, key in keys.items():
        path = f"{within}{name}"
        if name not in table:
            findings.violations += [] if _is_optional(key) else [f"{path}: missing"]
        elif (value := _read(key, types[name], table[name], path, findings)) is not None:
            given[name] = value
    needed = {name for name, key in keys.items() if not _is_optional(key)}
    return kind(**given) if needed <= given.keys() else None


def _read(key: Field[Any], annotation: Any, raw: Any, path: str, findings: Findings) -> Any:
    """The value of one key, or None after saying what is wrong with it."""
    named = key.metadata.get("named")
    expected = str if named else _expected(annotation)
    if is_dataclass(expected):
        if isinstance(raw, dict):
            return build(expected, raw, findings, within=f"{path}.")
        findings.violations.append(f"{path}={_shown(raw)}: must be a table, [{path}]")
        return None
    value = _without_source(raw, path, findings)
    if value is None:
        return None
    if wrong := _wrong(expected, value, key.metadata):
        findings.violations.append(f"{path}={_shown(value)}: {wrong}")
        return None
    try:
        return named(value) if named else expected(value)
    except PlanError as error:
        findings.violations += [f"{path}={violation}" for violation in error.violations]
        return None


def _expected(annotation: Any) -> type:
    """The type behind what may be None; `tuple` stands for a list of texts."""
    if get_origin(annotation) is tuple:
        return tuple
    (expected,) = set(get_args(annotation) or (annotation,)) - {NoneType}
    assert isinstance(expected, type)
    return expected


def _without_source(raw: Any, path: str, findings: Findings) -> Any:
    """The bare value of `{ value = ..., source = ... }`, after its source was noted; None where there is no value."""
    if not isinstance(raw, dict):
        return raw
    findings.violations += _unknown_keys(raw, ("value", "source"), f"{path}.")
    if "source" in raw:
        findings.sources[path] = raw["source"]
        if wrong := _wrong(str, raw["source"], {}):
            findings.violations.append(f"{path}.source={_shown(raw['source'])}: {wrong}")
    if "value" not in raw:
        findings.violations.append(f"{path}.value: missing")
    return raw.get("value")


def _wrong(expected: type, value: Any, rules: Mapping[str, Any]) -> str:
    """The rule that the value breaks; empty when it keeps all."""
    if expected is str:
        return _wrong_text(value, rules.get("one_of"))
    if expected is tuple:
        is_texts = isinstance(value, list) and not any(_wrong_text(each, None) for each in value)
        return "" if is_texts else "must be a list of texts"
    if expected is bool:
        return "" if isinstance(value, bool) else f"must be {_WORDS[bool]}"
    # In Python, true is a whole number.
    if isinstance(value, bool) or not isinstance(value, int if expected is int else int | float):
        return f"must be {_WORDS[expected]}"
    if not abs(value) < _TOO_LARGE:  # nan as well
        return f"must be finite and below {_TOO_LARGE}"
    if "least" in rules and value < rules["least"]:
        return f"must be {rules['least']} or above"
    if "least" not in rules and value <= 0:
        return "must be above 0"
    return f"must be {rules['most']} or below" if "most" in rules and value > rules["most"] else ""


def _wrong_text(value: Any, words: Collection[str] | None) -> str:
    if not isinstance(value, str) or not value.strip():
        return "must be text"
    return f"must be one of {', '.join(words)}" if words and value not in words else ""


def _is_optional(key: Field[Any]) -> bool:
    return not (key.default is MISSING and key.default_factory is MISSING)


def _unknown_keys(table: Mapping[str, Any], known: Collection[str], within: str) -> list[str]:
    return [f"{_shown(within + key)}: no such key; {_nearest(key, known)}" for key in table if key not in known]


def _nearest(key: str, known: Collection[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _shown(value: object) -> str:
    """A value as one would write it in the file, safe to print."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
