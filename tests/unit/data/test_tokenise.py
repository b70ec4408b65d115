"""Documents become tokens, in several processes."""

from pathlib import Path
from typing import Any

import pytest

from mai.data import tokenise


@pytest.mark.parametrize(("groups", "processes"), [(2, 2), (8, 4)])
def test_there_are_no_more_processes_than_groups(
    groups: int, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Noted(tokenise.Workers):
        def __init__(self, number: int) -> None:
            asked.append(number)
            super().__init__(1)

    monkeypatch.setattr(tokenise, "Workers", Noted)
    monkeypatch.setattr(tokenise, "tokenise_group", lambda group, **_: group)
    found: Any = list(tokenise.tokenise([[]] * groups, folder=tmp_path, end_token=0, beginning=None, workers=4))
    assert (len(found), asked) == (groups, [processes])
