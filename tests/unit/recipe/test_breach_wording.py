"""What a breach suggests."""

from mai.recipe.rules.breach_wording import multiples_near, one_of


def test_multiples_near_are_those_below_and_above_and_from_one_on() -> None:
    assert multiples_near(10, 4) == [8, 12]
    assert multiples_near(3, 4) == [4]
    assert multiples_near(1, 1) == [1, 2]
    assert multiples_near(10, 4, at_least=9) == [12]


def test_the_closest_choices_are_named_in_order() -> None:
    assert one_of([16, 2, 8, 4], near=5).startswith("one of 2, 4, 8, 16")
