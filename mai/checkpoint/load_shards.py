"""Read a checkpoint into any layout: each rank fills its own shards from whatever pieces hold them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mai.checkpoint.manifest import Manifest, Piece
from mai.checkpoint.shard_file import read_range, verify
from mai.engine.shard import WEIGHT, Block, Shard
from mai.errors import CheckpointError


def verify_files(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> None:
    """Check size and SHA-256 of every file that `shards` will read, and that it holds what the manifest says; call
    before anything is written into them."""
    for name, tensors in needed_tensors(folder, manifest, shards).items():
        verify(folder / name, manifest.files[name], holds=tensors)


def needed_tensors(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> dict[str, set[str]]:
    """Which tensors of which files `shards` will read; raises CheckpointError where that does not fit the checkpoint,
    or has a hole."""
    _check_states(folder, manifest, shards)
    needed: dict[str, set[str]] = defaultdict(set)
    for shard in shards:
        pieces = list(_needed(manifest, shard))
        _check_whole(shard, pieces)
        states = [state for state in shard.tensors if state in manifest.states]
        for piece in pieces:
            needed[piece.file].update(f"{piece.key}.{state}" for state in states)
    for name in needed:
        if name not in manifest.files or "/" in name:
            raise CheckpointError(f"{folder / name}: the manifest has no digest for it")
    return dict(sorted(needed.items()))


def _check_states(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> None:
    """What the optimizer keeps is in the checkpoint, or nothing of the kind is: then it begins at zero."""
    kept = [state for state in manifest.states if state != WEIGHT]
    lacking = {state for shard in shards for state in shard.tensors} - {WEIGHT, *kept}
    if kept and lacking:
        raise CheckpointError(
            f"{folder}: holds {', '.join(kept)} of each parameter and no {', '.join(sorted(lacking))}: another "
            "optimizer saved it; take its weights alone with checkpoint.start_from, in another --run folder"
        )


def fill(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> None:
    """Write the checkpoint's values into the shards' tensors; call after `verify_files`."""
    for shard in shards:
        pieces = list(_needed(manifest, shard))
        for state, target in shard.tensors.items():
            # An imported checkpoint has weights only, and what an optimizer keeps begins at zero.
            if state in manifest.states:
                _fill_one(folder, pieces, shard, state, target)


def _needed(manifest: Manifest, shard: Shard) -> Iterable[Piece]:
    """The pieces of the shard's tensor that touch its block; raises CheckpointError when the tensor does not fit."""
    block = shard.block
    entry = manifest.tensors.get(block.name)
    if entry is None:
        raise CheckpointError(f"the checkpoint has no tensor {block.name}; it belongs to another model")
    if entry.shape != block.global_shape:
        raise CheckpointError(
            f"{block.name}: the checkpoint holds shape {entry.shape}, the recipe builds {block.global_shape}"
        )
    for piece in entry.pieces:
        if (piece.offset, piece.shape) == (block.offset, block.shape):
            if piece.start < shard.stop and shard.start < piece.stop:
                yield piece
        elif _overlap(piece, block.offset, block.shape) is not None:
            yield piece


def _overlap(piece: Piece, offset: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...] | None:
    """Where the piece's box and another one meet, in global coordinates."""
    lows = [max(a, b) for a, b in zip(piece.offset, offset, strict=True)]
    highs = [
        min(a + n, b + m) for a, n, b, m in zip(piece.offset, piece.shape, offset, shape, strict=True)
    ]  # fmt: skip
    if any(low >= high for low, high in zip(lows, highs, strict=True)):
        return None
    return tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))


def _check_whole(shard: Shard, pieces: Iterable[Piece]) -> None:
    """Every element of the shard is in a piece; of a box that was cut otherwise, all is there."""
    block = shard.block
    own, foreign = _by_box(block, pieces)
    found, wanted = (
        sum(min(piece.stop, shard.stop) - max(piece.start, shard.start) for piece in own),
        shard.stop - shard.start,
    )
    if foreign:
        for box in foreign:
            _check_count(block, sum(piece.stop - piece.start for piece in box), of=math.prod(box[0].shape))
        found, wanted = sum(_num_common(box[0], block) for box in foreign), math.prod(block.shape)
    _check_count(block, found, of=wanted)


def _check_count(block: Block, found: int, *, of: int) -> None:
    if found != of:
        raise CheckpointError(f"{block.name}: the checkpoint holds {found} of {of} elements")


def _by_box(block: Block, pieces: Iterable[Piece]) -> tuple[list[Piece], list[list[Piece]]]:
    """Pieces of the block's own box, and those of each box that was cut otherwise."""
    own: list[Piece] = []
    foreign: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        is_own = (piece.offset, piece.shape) == (block.offset, block.shape)
        (own if is_own else foreign.setdefault(piece.offset, [])).append(piece)
    return own, list(foreign.values())


def _num_common(piece: Piece, block: Block) -> int:
    meeting = _overlap(piece, block.offset, block.shape)
    assert meeting is not None
    return math.prod(s.stop - s.start for s in meeting)


@torch.no_grad()
def _fill_one(folder: Path, pieces: Sequence[Piece], shard: Shard, state: str, target: Tensor) -> None:
    block = shard.block
    own, foreign = _by_box(block, pieces)
    for piece in own:
        low, high = max(piece.start, shard.start), min(piece.stop, shard.stop)
        values = read_range(folder / piece.file, f"{piece.key}.{state}", low - piece.start, high - piece.start)
        target[low - shard.start : high - shard.start].copy_(values)
    if foreign:
        is_whole = target.numel() == math.prod(block.shape)
        # A whole block is put together where it is wanted: it may be the largest tensor of the model.
        out = target.view(block.shape) if is_whole else torch.empty(block.shape)
        _assemble(folder, foreign, block, state, out=out)
        if not is_whole:
            target.copy_(out.view(-1)[shard.start : shard.stop])


def _assemble(folder: Path, boxes: Iterable[list[Piece]], block: Block, state: str, *, out: Tensor) -> None:
    """The whole block from boxes that were cut otherwise."""
    out.fill_(math.nan)
    for pieces in boxes:
        box = torch.full((math.prod(pieces[0].shape),), math.nan)
        for piece in pieces:
            box[piece.start : piece.stop] = read_range(
                folder / piece.file, f"{piece.key}.{state}", 0, piece.stop - piece.start
            )
        meeting = _overlap(pieces[0], block.offset, block.shape)
        assert meeting is not None
        inside = tuple(slice(s.start - o, s.stop - o) for s, o in zip(meeting, block.offset, strict=True))
        source = tuple(slice(s.start - o, s.stop - o) for s, o in zip(meeting, pieces[0].offset, strict=True))
        out[inside] = box.view(pieces[0].shape)[source]
