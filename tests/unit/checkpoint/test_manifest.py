"""The manifest: every element once, read back as written, and nothing else than what was written."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mai.checkpoint.manifest import FORMAT_VERSION, Manifest, Piece, Progress, TensorEntry, merge_pieces, read_manifest
from mai.checkpoint.shard_file import FileDigest
from mai.errors import CheckpointError

FILE = "rank-00000.safetensors"
PIECE = Piece(file=FILE, key="w@0,0:0", offset=(0, 0), shape=(2, 3), start=0, stop=6)
MANIFEST = Manifest(
    format_version=FORMAT_VERSION,
    progress=Progress(step=7, position=56, tokens=3584, updates=6),
    states=["weight", "exp_avg", "exp_avg_sq"],
    layout={"tensor": 1, "pipeline": 1, "data": 1},
    recipe_fingerprint="r",
    data_fingerprint="d",
    files={FILE: FileDigest(bytes=10, sha256="0" * 64)},
    tensors={"w": TensorEntry(shape=(2, 3), pieces=[PIECE])},
)


def report(
    *boxes: tuple[tuple[int, ...], tuple[int, ...], int, int], shape: tuple[int, ...] = (4, 3)
) -> dict[str, Any]:
    """A rank's report of tensor `w`: a piece for each (offset, shape of the box, start, stop)."""
    pieces = [("w", asdict(Piece(FILE, "k", offset, box, start, stop))) for offset, box, start, stop in boxes]
    # Reports travel as JSON.
    return json.loads(json.dumps({"shapes": {"w": shape}, "pieces": pieces}))  # type: ignore[no-any-return]


def test_two_ranks_that_share_a_block_cover_it() -> None:
    merged = merge_pieces([report(((0, 0), (4, 3), 0, 5)), report(((0, 0), (4, 3), 5, 12))])
    assert merged["w"].shape == (4, 3)
    assert [(piece.start, piece.stop) for piece in merged["w"].pieces] == [(0, 5), (5, 12)]


def test_two_blocks_cover_a_tensor() -> None:
    merged = merge_pieces([report(((0, 0), (2, 3), 0, 6)), report(((2, 0), (2, 3), 0, 6))])
    assert [piece.offset for piece in merged["w"].pieces] == [(0, 0), (2, 0)]


def test_a_rank_that_holds_only_replicas_reports_no_piece() -> None:
    assert merge_pieces([report(((0, 0), (4, 3), 0, 12)), report()])["w"].pieces


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([report(((0, 0), (4, 3), 0, 5)), report(((0, 0), (4, 3), 6, 12))], "gap at element 6"),
        ([report(((0, 0), (4, 3), 1, 12))], "gap at element 1"),
        ([report(((0, 0), (4, 3), 0, 6)), report(((0, 0), (4, 3), 5, 12))], "overlap or leave a gap at element 5"),
        ([report(((0, 0), (4, 3), 0, 12)), report(((0, 0), (4, 3), 0, 12))], "overlap or leave a gap at element 0"),
        ([report(((0, 0), (4, 3), 0, 11))], "pieces hold 11 of 12 elements"),
        ([report(((0, 0), (2, 3), 0, 6))], "pieces hold 6 of 12 elements"),
        ([report()], "pieces hold 0 of 12 elements"),
    ],
)
def test_a_gap_an_overlap_or_a_missing_part_is_named(reports: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"w: .*{message}"):
        merge_pieces(reports)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST.to_json())
    assert read_manifest(tmp_path) == MANIFEST


def test_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint is not whole"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\x00", '{"format_version": 1', "[" * 100_000])
def test_what_is_no_manifest_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    text = MANIFEST.to_json()
    path = tmp_path / "manifest.json"
    for position in range(0, len(text), 7):
        changed = chr(ord(text[position]) ^ 1)
        path.write_text(text[:position] + changed + text[position + 1 :])
        try:
            found = read_manifest(tmp_path)
        except CheckpointError:
            continue
        # White space may be another one.
        assert found == MANIFEST, f"{text[position]!r} became {changed!r} at {position}"


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(unknown=1),
        lambda values: values["progress"].update(unknown=1),
        lambda values: values["tensors"]["w"]["pieces"][0].update(unknown=1),
        lambda values: values.pop("states"),
        lambda values: values["progress"].update(step="7"),
        lambda values: values["progress"].update(step=7.0),
        lambda values: values["progress"].update(step=True),
        lambda values: values["progress"].update(position=-1),
        lambda values: values["tensors"]["w"].update(shape="23"),
        lambda values: values["tensors"]["w"].update(shape=[2, "3"]),
        lambda values: values["tensors"]["w"]["pieces"][0].update(start=-1),
        lambda values: values["tensors"]["w"]["pieces"][0].update(file="../x"),
        lambda values: values["tensors"]["w"]["pieces"][0].update(file="/etc/passwd"),
        lambda values: values["tensors"]["w"]["pieces"][0].update(file="rank-00000.safetensors/../../x"),
        lambda values: values["tensors"]["w"]["pieces"][0].update(file="rank-00000.safetensors\n"),
        lambda values: values["files"].update({"..": {"bytes": 1, "sha256": "0"}}),
        lambda values: values["files"][FILE].update(bytes="10"),
    ],
)
def test_a_manifest_that_does_not_fit_the_format_is_refused_even_with_a_right_digest(
    change: Change, tmp_path: Path
) -> None:
    values = json.loads(MANIFEST.to_json())
    del values["sha256"]
    change(values)
    values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"damaged \(\d+ fields do not fit"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_format_is_refused_by_its_number(version: object, tmp_path: Path) -> None:
    values = json.loads(MANIFEST.to_json()) | {"format_version": version}
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"format {version}, this mai reads format 1"):
        read_manifest(tmp_path)
