"""What an attempt that failed says of itself."""

import contextlib
from pathlib import Path

import pytest

from mai.errors import DataError
from mai.parallel.place import Place
from mai.run_folder import RunFolder, Terminal
from mai.train.failure import Standing, accounted_for

SECOND_OF_TWO = Place(rank=1, world_size=2, local_rank=1, master_address="127.0.0.1", master_port=1)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.create()
    return folder


def fail(folder: RunFolder, standing: Standing | None) -> Terminal:
    """An attempt that does; the first rank's status.json is older than what this one knows."""
    with contextlib.suppress(DataError), accounted_for(folder, SECOND_OF_TWO) as account:
        folder.write_json("status.json", {"phase": "ready", "step": 7, "attempt": folder.begin_attempt()})
        account.standing = standing
        raise DataError("a bad byte")
    end = folder.read_terminal(1)
    assert end is not None
    assert (end.code, end.evidence) == (81, "a bad byte")
    return end


def test_a_rank_tells_where_it_stands_itself_and_not_what_the_first_one_wrote_last(folder: RunFolder) -> None:
    end = fail(folder, lambda: {"phase": "training", "step": 9, "last_committed_step": 8})
    assert (end.phase, end.step, end.last_committed_step) == ("training", 9, 8)


def test_who_fails_before_it_stands_anywhere_says_so(folder: RunFolder) -> None:
    end = fail(folder, None)
    assert (end.phase, end.step, end.last_committed_step) == ("start", 0, None)
