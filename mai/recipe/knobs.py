"""Every knob of a recipe, read off its types once: the dotted path, what it takes, and its default."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Any

from pydantic import TypeAdapter

from mai.recipe.recipe import Recipe

_TYPE_WORDS = {
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One field that holds a value and no further fields."""

    path: str
    type: str
    """JSON's name: integer, number, boolean, string, or array."""
    item_type: str = ""
    """What an array holds."""
    choices: tuple[str, ...] = ()
    """The only texts that it takes; empty for any."""
    takes_none: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    may_be_empty: bool = True
    default: object = MISSING
    """MISSING where a recipe must say."""
    variant: str | None = None
    """The `kind` of section that has this field; None where there is only one kind."""

    @property
    def type_words(self) -> str:
        what = _TYPE_WORDS[self.type]
        if self.item_type in ("integer", "number"):
            what = f"a list of {'whole ' if self.item_type == 'integer' else ''}numbers"
        if self.choices:
            what = f"{'any' if self.type == 'array' else 'one'} of {', '.join(self.choices)}"
        return f"{what} or none" if self.takes_none else what

    @property
    def range_words(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)

    def nearest(self, value: float) -> float | None:
        """The valid number nearest to one out of range; None where there is no such thing (0 for "above 0")."""
        if self.at_least is not None and value < self.at_least:
            return self.at_least
        if self.at_most is not None and value > self.at_most:
            return self.at_most
        return None


def active(path: str, values: dict[str, Any]) -> Knob | None:
    """The knob of this path in a recipe's plain values, where the `kind` of a section decides which fields it has."""
    kind = value_at(section_of(path), values).get("kind") if section_of(path) in VARIANTS else None
    return KNOBS.get((path, None)) or KNOBS.get((path, kind))


def section_of(path: str) -> str:
    return path.rpartition(".")[0]


def value_at(path: str, values: dict[str, Any]) -> Any:
    """What stands at a dotted path of nested plain values; the empty path is the whole."""
    for name in filter(None, path.split(".")):
        values = values[name]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path of nested plain values with what it holds, in order."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


_SCHEMA = TypeAdapter(Recipe).json_schema()


def _sections(schema: dict[str, Any], path: str, variant: str | None) -> Iterator[tuple[str, str | None, str, Any]]:
    """This section and all below it, as (path, kind, name of the class, JSON schema)."""
    yield path, variant, schema["title"], schema
    for name, field in schema["properties"].items():
        below = f"{path}.{name}" if path else name
        kinds: dict[str | None, str] = {}
        if "discriminator" in field:
            # In the order of the union, the default first; the mapping is sorted by name.
            references = [option["$ref"] for option in field["oneOf"]]
            mapping = field["discriminator"]["mapping"]
            kinds = dict(sorted(mapping.items(), key=lambda entry: references.index(entry[1])))
        elif "$ref" in field:
            kinds = {None: field["$ref"]}
        for kind, reference in kinds.items():
            yield from _sections(_SCHEMA["$defs"][reference.rpartition("/")[2]], below, kind)


def _knob(path: str, field: dict[str, Any], variant: str | None) -> Knob:
    options = field.get("anyOf", [field])
    (value,) = [option for option in options if option["type"] != "null"]
    item = value.get("items", value)
    # Every number but these is a float; for a whole number "above 0" is "at least 1", which has a nearest value.
    step = 1 if value["type"] == "integer" else None
    above, below = value.get("exclusiveMinimum"), value.get("exclusiveMaximum")
    return Knob(
        path=path,
        type=value["type"],
        item_type=item["type"] if value["type"] == "array" else "",
        choices=tuple(item.get("enum", [item["const"]] if "const" in item else [])),
        takes_none=len(options) > 1,
        at_least=value.get("minimum") if above is None or step is None else above + step,
        above=above if step is None else None,
        at_most=value.get("maximum") if below is None or step is None else below - step,
        below=below if step is None else None,
        may_be_empty=not (value.get("minItems") or value.get("minLength")),
        default=field.get("default", MISSING),
        variant=variant,
    )


def _kind_knob(path: str) -> Knob:
    return Knob(path=f"{path}.kind", type="string", choices=VARIANTS[path], default=VARIANTS[path][0])


_SECTIONS = tuple(_sections(_SCHEMA, "", None))

SECTIONS: dict[str, tuple[str, str | None]] = {title: (path, variant) for path, variant, title, _ in _SECTIONS}
"""Class name of a section -> its path, and its kind where several classes share the path."""

VARIANTS: dict[str, tuple[str, ...]] = {
    path: tuple(kind for below, kind, _, _ in _SECTIONS if below == path and kind)
    for path, variant, _, _ in _SECTIONS
    if variant
}
"""Path of a section that comes in several kinds -> the kinds, the default first."""

KNOBS: dict[tuple[str, str | None], Knob] = {
    (knob.path, knob.variant): knob
    for section, variant, _, schema in _SECTIONS
    for name, field in schema["properties"].items()
    if "type" in field or "anyOf" in field
    for path in [f"{section}.{name}" if section else name]
    for knob in [_kind_knob(section) if variant and name == "kind" else _knob(path, field, variant)]
}
"""(path, kind of its section or None) -> knob."""
