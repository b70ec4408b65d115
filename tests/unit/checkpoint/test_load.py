"""Shards are filled from whatever pieces hold them, however the tensor was cut when it was saved."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.checkpoint.manifest import FORMAT_VERSION, Manifest, Piece, Progress, merge_pieces
from mai.checkpoint.shard_file import write_tensors
from mai.errors import CheckpointError

# Shards come from the engine.
pytestmark = pytest.mark.usefixtures("cpu_engine")

WHOLE = torch.arange(48, dtype=torch.float32).view(8, 6)
Box = tuple[tuple[int, int], tuple[int, int]]
# Offset and shape of the boxes that one layout holds.
ROWS: list[Box] = [((0, 0), (4, 6)), ((4, 0), (4, 6))]
COLUMNS: list[Box] = [((0, 0), (8, 3)), ((0, 3), (8, 3))]
QUARTERS: list[Box] = [((row, column), (4, 3)) for row in (0, 4) for column in (0, 3)]
ALL: list[Box] = [((0, 0), (8, 6))]
LAYOUTS = {"rows": ROWS, "columns": COLUMNS, "quarters": QUARTERS, "all": ALL}


def box_values(box: Box) -> Tensor:
    (row, column), (rows, columns) = box
    return WHOLE[row : row + rows, column : column + columns].reshape(-1)


def ranges(size: int, parts: int) -> list[tuple[int, int]]:
    """The flattened box, cut for the data-parallel ranks; not evenly, as with Megatron's buckets."""
    edges = [0, *(size * part // parts + 1 for part in range(1, parts)), size]
    return list(pairwise(edges))


def save(folder: Path, boxes: Sequence[Box], *, parts: int) -> Manifest:
    reports: list[dict[str, Any]] = []
    files = {}
    for box in boxes:
        for start, stop in ranges(math.prod(box[1]), parts):
            name = f"rank-{len(files):05d}.safetensors"
            files[name] = write_tensors(folder / name, {"k.weight": box_values(box)[start:stop]})
            piece = {"file": name, "key": "k", "offset": box[0], "shape": box[1], "start": start, "stop": stop}
            reports.append({"shapes": {"w": tuple(WHOLE.shape)}, "pieces": [("w", piece)]})
    return Manifest(
        format_version=FORMAT_VERSION,
        progress=Progress(step=1, position=1, tokens=1, updates=1),
        states=["weight"],
        layout={},
        recipe_fingerprint="",
        data_fingerprint="",
        files=files,
        tensors=merge_pieces(reports),
    )


def shard(box: Box, start: int, stop: int, *, name: str = "w", global_shape: tuple[int, ...] = (8, 6)) -> Any:
    from mai.engine.shard import Block, Shard

    block = Block(name=name, global_shape=global_shape, offset=box[0], shape=box[1], is_replica=False)
    return Shard(block, start, stop, {"weight": torch.full((stop - start,), math.nan)})


@pytest.mark.parametrize("loaded", LAYOUTS)
@pytest.mark.parametrize("saved", LAYOUTS)
@pytest.mark.parametrize(("saved_parts", "loaded_parts"), [(1, 1), (2, 3), (3, 1)])
def test_any_cut_is_read_into_any_other(
    saved: str, loaded: str, saved_parts: int, loaded_parts: int, tmp_path: Path
) -> None:
    from mai.checkpoint.load_shards import fill, verify_files

    manifest = save(tmp_path, LAYOUTS[saved], parts=saved_parts)
    for box in LAYOUTS[loaded]:
        shards = [shard(box, start, stop) for start, stop in ranges(math.prod(box[1]), loaded_parts)]
        verify_files(tmp_path, manifest, shards)
        fill(tmp_path, manifest, shards)
        assert torch.equal(torch.cat([part.tensors["weight"] for part in shards]), box_values(box))


def test_a_rank_verifies_the_files_it_reads_and_no_others(tmp_path: Path) -> None:
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, ROWS, parts=1)
    (tmp_path / "rank-00001.safetensors").unlink()
    verify_files(tmp_path, manifest, [shard(ROWS[0], 0, 24)])
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors: cannot be read"):
        verify_files(tmp_path, manifest, [shard(ROWS[1], 0, 24)])


def test_a_tensor_of_another_model_is_named(tmp_path: Path) -> None:
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, ALL, parts=1)
    with pytest.raises(CheckpointError, match="no tensor other; it belongs to another model"):
        verify_files(tmp_path, manifest, [shard(ALL[0], 0, 48, name="other")])
    with pytest.raises(CheckpointError, match=r"holds shape \(8, 6\), the recipe builds \(8, 7\)"):
        verify_files(tmp_path, manifest, [shard(ALL[0], 0, 48, global_shape=(8, 7))])


@pytest.mark.parametrize(
    ("saved", "loaded", "missing", "found"),
    [
        ("rows", ROWS[0], 1, "holds 13 of 24"),
        ("rows", ROWS[0], 0, "holds 11 of 24"),
        ("quarters", ROWS[1], 5, "holds 7 of 12"),
        ("columns", ALL[0], 2, "holds 11 of 24"),
    ],
)
def test_a_tensor_with_a_hole_is_not_loaded(saved: str, loaded: Box, missing: int, found: str, tmp_path: Path) -> None:
    """Each box lies in two pieces: one is lost, of the box that is wanted or of those that it is put together from.
    That is found before a file is read, so that the next older checkpoint can be taken."""
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, LAYOUTS[saved], parts=2)
    del manifest.tensors["w"].pieces[missing]
    with pytest.raises(CheckpointError, match=f"w: the checkpoint {found} elements"):
        verify_files(tmp_path, manifest, [shard(loaded, 0, math.prod(loaded[1]))])


def test_a_tensor_of_which_a_box_is_lost_is_not_loaded(tmp_path: Path) -> None:
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, QUARTERS, parts=1)
    del manifest.tensors["w"].pieces[1]
    with pytest.raises(CheckpointError, match="w: the checkpoint holds 12 of 24 elements"):
        verify_files(tmp_path, manifest, [shard(ROWS[0], 0, 24)])


def test_a_file_that_lacks_a_tensor_of_its_manifest_is_not_whole(tmp_path: Path) -> None:
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, ALL, parts=1)
    (name,) = manifest.files
    (tmp_path / name).unlink()
    manifest.files[name] = write_tensors(tmp_path / name, {"other.weight": box_values(ALL[0])})
    with pytest.raises(CheckpointError, match=r"holds no k\.weight, which its manifest names"):
        verify_files(tmp_path, manifest, [shard(ALL[0], 0, 48)])


def test_a_file_without_a_digest_is_not_read(tmp_path: Path) -> None:
    from mai.checkpoint.load_shards import verify_files

    manifest = save(tmp_path, ALL, parts=1)
    entry = manifest.tensors["w"]
    entry.pieces[:] = [Piece("rank-00009.safetensors", "k", (0, 0), (8, 6), 0, 48)]
    with pytest.raises(CheckpointError, match=r"rank-00009\.safetensors: the manifest has no digest"):
        verify_files(tmp_path, manifest, [shard(ALL[0], 0, 48)])
