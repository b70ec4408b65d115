"""Random configurations of every family: equal to transformers at one rank and cut, or refused; `make families` draws
more of them and writes docs/families.md."""

from itertools import islice

import pytest

from tests.families.__main__ import line, models
from tests.families.compare import Case, compare
from tests.families.draw import FAMILIES

pytestmark = [pytest.mark.usefixtures("cpu_engine"), pytest.mark.slow]

OF_EACH = 2


@pytest.fixture(scope="module")
def drawn(cpu_engine: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    """All of them, with one start of the ranks for each layout."""
    folder = tmp_path_factory.mktemp("families")
    found = {family: list(islice(models(family, folder / family), OF_EACH)) for family in FAMILIES}
    compare([case for cases in found.values() for case in cases])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_configuration_is_equal_or_refused(family: str, drawn: dict[str, list[Case]]) -> None:
    assert [line(case) for case in drawn[family] if case.is_wrong] == []


def test_most_are_equal(drawn: dict[str, list[Case]]) -> None:
    compared = [case for cases in drawn.values() for case in cases if case.is_compared]
    assert len(compared) >= OF_EACH * len(FAMILIES) / 2
