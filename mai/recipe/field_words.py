"""What every field of a recipe means: the docstrings of its classes, with what it takes and its default.

Read off the source when somebody asks, as Python keeps no docstrings of fields.
"""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

from mai.errors import RecipeError
from mai.recipe.breach import shown
from mai.recipe.explain import unknown_field
from mai.recipe.knobs import KNOBS, SECTIONS, VARIANTS, Knob, active, section_of, value_at
from mai.recipe.recipe import Recipe, all_fields


def explained(recipe: Recipe, path: str) -> Mapping[str, Any]:
    """What this field of the recipe is and holds. Raises RecipeError for a path that is none."""
    values = all_fields(recipe)
    knob = active(path, values) if path in {known for known, _ in KNOBS} else None
    if knob is None:
        kind = value_at(section_of(path), values)["kind"] if section_of(path) in VARIANTS else None
        raise RecipeError(unknown_field(path, path, kind).message)
    return {"field": path, "value": value_at(path, values), **_said(knob)}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"{found['field']}={shown(found['value'])}"
    yield from textwrap.wrap(found["meaning"], 100, initial_indent="  ", subsequent_indent="  ")
    yield f"  takes {found['takes']}"
    yield f"  {_default_words(found)}"


def reference() -> str:
    """docs/reference.md: all of them."""
    parts = [_HEAD]
    for (section, variant), (doc, names) in _sections().items():
        title = section or "the recipe itself"
        parts.append(f"\n## {title}{f', kind {variant}' if variant else ''}\n\n{doc}\n")
        parts.append("| field | meaning | takes | default |\n|---|---|---|---|")
        for name in names:
            path = f"{section}.{name}" if section else name
            knob = KNOBS.get((path, variant)) or KNOBS.get((path, None))
            if knob is None or (name == "kind" and variant != VARIANTS[section][0]):
                continue
            said = _said(knob)
            row = (f"`{path}`", said["meaning"], said["takes"], _default_cell(said["default"]))
            parts.append(f"| {' | '.join(cell.replace('|', _BAR) for cell in row)} |")
    return "\n".join(parts) + "\n"


_HEAD = """# Every field of a recipe

Written by `make reference` from the docstrings in `mai/recipe`; `mai check RECIPE --explain FIELD` says the same of
one. A field without a default must be given. Lengths are in tokens, sizes in numbers (not bytes), times in seconds."""


def _said(knob: Knob) -> dict[str, Any]:
    takes = f"{knob.type_words}{f', {knob.range_words}' if knob.range_words else ''}"
    return {"meaning": words_of(knob), "takes": takes, "default": knob.default}


def words_of(knob: Knob) -> str:
    """The docstring of the field, in one line; empty where it has none."""
    section, _, name = knob.path.rpartition(".")
    if name == "kind" and section in VARIANTS:
        return f"Which kind of section it is: {', '.join(VARIANTS[section])}."
    return _sections()[section, knob.variant][1].get(name, "")


def _default_words(found: Mapping[str, Any]) -> str:
    return "has no default" if found["default"] is MISSING else f"default {shown(found['default']) or 'empty'}"


_BAR = "\\|"


def _default_cell(default: object) -> str:
    if default is MISSING:
        return "-"
    return f"`{shown(default)}`" if shown(default) else "empty"


@cache
def _sections() -> Mapping[tuple[str, str | None], tuple[str, Mapping[str, str]]]:
    """By path and kind of a section: the docstring of its class, and of its fields, in the order of the recipe."""
    classes = {
        node.name: node
        for file in sorted(Path(__file__).parent.glob("*.py"))
        for node in ast.parse(file.read_bytes()).body
        if isinstance(node, ast.ClassDef)
    }
    return {
        place: (_one_line(ast.get_docstring(classes[title]) or ""), dict(_fields(classes[title])))
        for title, place in SECTIONS.items()
    }


def _fields(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, after in zip(section.body, [*section.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield node.target.id, _one_line(str(after.value.value)) if is_told else ""  # type: ignore[union-attr]


def _one_line(text: str) -> str:
    return " ".join(text.split())
