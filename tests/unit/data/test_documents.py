"""Every document is kept, or left out for a reason that is counted."""

import errno
import json
import os
from pathlib import Path

import pytest

from mai.data.document import Document, Rejection
from mai.data.documents import find_pieces, group_pieces, read_piece
from mai.data.formats import json_lines
from mai.errors import DataError


def read(*entries: Path | str) -> list[Document]:
    return [document for piece in find_pieces([str(entry) for entry in entries]) for document in read_piece(piece)]


def test_a_folder_is_read_recursively_in_sorted_order_and_other_suffixes_are_passed_over(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("c.py", "a.txt", "b/d.md", "picture.png", ".hidden/e.txt", "b/.f.txt"):
        (tmp_path / name).write_text(name)
    assert [document.content for document in read(tmp_path)] == [b"a.txt", b"b/d.md", b"c.py"]


def test_a_file_that_is_named_itself_is_read_whatever_its_suffix(tmp_path):
    (tmp_path / "LICENSE").write_text("do as you like\r\n")
    assert read(tmp_path / "LICENSE")[0].content == b"do as you like\r\n"


def test_entries_are_read_in_the_order_of_the_recipe(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert [document.content for document in read(tmp_path / "b.txt", tmp_path / "a.txt")] == [b"b", b"a"]


@pytest.mark.parametrize(
    ("content", "rejection"),
    [
        (b"text", None),
        (b"", Rejection.EMPTY),
        (b" \n\t", Rejection.EMPTY),
        (b"caf\xe9", Rejection.NOT_UTF8),
        (b"\xff\xfe\x00", Rejection.NUL_BYTES),
        (b"a\0b", Rejection.NUL_BYTES),
    ],
)
def test_a_file_is_kept_or_left_out_for_a_reason(tmp_path, content, rejection):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "judged.txt").write_bytes(content)
    assert read(tmp_path)[1].rejection is rejection


@pytest.mark.parametrize(
    ("line", "rejection"),
    [
        (b'{"text": "hello"}', None),
        (b'{"text": "hello"', Rejection.BAD_JSON),
        (b"[" * 100_000, Rejection.BAD_JSON),
        (b'{"body": "hello"}', Rejection.NO_TEXT),
        (b'{"text": 3}', Rejection.NO_TEXT),
        (b'["text"]', Rejection.NO_TEXT),
        (b'{"text": ""}', Rejection.EMPTY),
        (b'{"text": "a\\u0000b"}', Rejection.NUL_BYTES),
        (b'{"text": "\\ud800"}', Rejection.NOT_UTF8),
        (b'{"text": "caf\xe9"}', Rejection.NOT_UTF8),
    ],
)
def test_a_json_line_is_kept_or_left_out_for_a_reason(tmp_path, line, rejection):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line + b'\n\n{"text": "after"}')
    before, judged, after = read(path)
    assert (before.content, after.content) == (b"before", b"after")
    assert judged.rejection is rejection
    assert judged.where == f"{path} at byte 19"


@pytest.mark.parametrize("piece_bytes", [1, 7, 16, 50, 1000])
def test_pieces_of_a_jsonl_file_hold_each_line_once(tmp_path, monkeypatch, piece_bytes):
    texts = [f"line {'x' * (index % 9)}{index}" for index in range(40)]
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    monkeypatch.setattr(json_lines, "PIECE_BYTES", piece_bytes)
    assert [document.content.decode() for document in read(tmp_path)] == texts


def test_groups_hold_every_piece_in_order(corpus):
    pieces = find_pieces([str(corpus)])
    groups = group_pieces(pieces, group_bytes=1000)
    assert [piece for group in groups for piece in group] == pieces
    assert len(groups) > 1


def test_the_standard_library_is_always_there_without_the_installed_packages():
    paths = [piece.path for piece in find_pieces(["python:stdlib"])]
    assert any(path.name == "argparse.py" for path in paths)
    assert not any("site-packages" in path.parts or path.suffix != ".py" for path in paths)


def test_a_missing_path_names_the_nearest_that_exists(tmp_path):
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match=r"data\.documents=.*corpsu/en: there is no such.*did you mean .*corpus\?"):
        read(tmp_path / "corpsu/en")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"data\.documents=.*empty\.txt: the file is empty"):
        read(tmp_path / "empty.txt")


def test_a_folder_without_text_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match="it is empty"):
        read(tmp_path)
    (tmp_path / "book.pdf").touch()
    with pytest.raises(DataError, match=r"only 1 \.pdf\); these are read: .*\.txt"):
        read(tmp_path)


@pytest.mark.parametrize("entry", ["", "~nobody-of-this-name/x", "x" * 5000])
def test_a_path_that_cannot_be_one_is_a_clear_error(entry):
    with pytest.raises(DataError, match=r"data\.documents"):
        read(entry)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named_rather_than_left_out(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.txt").chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*secret\.txt: Permission denied"):
        read(tmp_path)


def test_a_folder_that_may_not_be_read_is_named_rather_than_left_out(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.txt").write_text("text")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    # Root may read everything.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*closed: Permission denied; mend it or leave it out"):
        read(tmp_path)
