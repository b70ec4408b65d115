"""What a script may log."""

import warnings
from typing import Any

import pytest
import torch

from mai.errors import UsageError
from mai.train.recorder import checked


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "this is a NoneType"),
        ([1.0], "this is a list"),
        ({"a": "3"}, "a: str is no number"),
        ({"a": 10**400}, "a: int is no number"),
        ({"a": None}, "a: NoneType is no number"),
        ({"a": torch.ones(2)}, "a: Tensor is no number"),
        ({"": 1}, "is no name"),
        ({"two\nlines": 1}, "is no name"),
        ({"loss": 1}, "loss is a metric of mai's own"),
    ],
)
def test_what_is_no_number_under_a_name_of_its_own_is_refused(values: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        checked(values)


def test_a_tensor_that_has_a_gradient_is_a_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked({"mine": torch.ones(1, requires_grad=True) * 2}) == {"mine": 2.0}
