"""The bar of a folder shows how much lies in it, whoever writes it."""

from pathlib import Path

import pytest

from mai.data.progress_bar import folder_progress


def test_a_folder_that_was_filled_is_shown_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What rich takes for a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with folder_progress("import", tmp_path, 3000, shown=True):
        (tmp_path / "below").mkdir()
        (tmp_path / "one").write_bytes(bytes(1000))
        (tmp_path / "below/two").write_bytes(bytes(2000))
    told = capsys.readouterr().err
    assert "import" in told
    assert "3.0/3.0 kB" in told


def test_nothing_is_shown_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with folder_progress("import", tmp_path, 3000, shown=False):
        (tmp_path / "one").write_bytes(bytes(1000))
    assert capsys.readouterr().err == ""
