"""A value becomes JSON by one rule: a field is a key, but for what its mark says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from mai.plan.published import AMONG_THE_OTHERS, WHERE_ASKED, its, key, published


@dataclass(frozen=True)
class Size:
    width: int
    height: float | None

    @property
    def area(self) -> float:
        return self.width * (self.height or 0.0)


@dataclass(frozen=True)
class Door:
    size: Size = field(metadata=AMONG_THE_OTHERS)
    num_bytes: int = field(metadata=key("bytes"))
    window: Size = field(metadata=its("width"))
    colours: tuple[str, ...] = ()
    hinges: Mapping[str, Size | None] = field(default_factory=dict)
    bell: Size | None = field(default=None, metadata=WHERE_ASKED)


def test_a_field_is_a_key_and_a_property_is_none() -> None:
    assert published(Size(1, None)) == {"width": 1, "height": None}


def test_marks_say_otherwise_and_the_order_is_that_of_the_fields() -> None:
    door = Door(Size(1, 2.0), 3, Size(4, 5.0), ("red",), {"upper": Size(6, 7.0), "lower": None})
    expected = {
        "width": 1,
        "height": 2.0,
        "bytes": 3,
        "window": 4,
        "colours": ["red"],
        "hinges": {"upper": {"width": 6, "height": 7.0}, "lower": None},
    }
    assert published(door) == expected
    assert list(published(door)) == list(expected)


def test_what_nobody_asked_for_has_no_key_and_what_is_unknown_is_null() -> None:
    door = Door(Size(1, None), 3, Size(4, None))
    assert "bell" not in published(door)
    with_a_bell = Door(Size(1, None), 3, Size(4, None), bell=Size(8, None))
    assert published(with_a_bell)["bell"] == {"width": 8, "height": None}


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Size, object()])
def test_what_json_has_no_word_for_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match="neither a dataclass"):
        published(value)
