"""A Hugging Face folder -> a checkpoint of ours at step 0, tensor by tensor, in one process or several.

In each are at most the sources of one of our tensors (one expert's, where there are experts) and that tensor. What goes
into which file follows from shapes alone, so that any number of processes writes the same bytes. A checkpoint of ours
knows no layout: any one loads it. It holds no moments; they begin at zero.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mai.checkpoint import store
from mai.checkpoint.hf_fit import shapes_of
from mai.checkpoint.hf_folder import HfFolder
from mai.checkpoint.hf_side_files import CAME_AS, take_side_files
from mai.checkpoint.hf_tensors import to_ours
from mai.checkpoint.manifest import FORMAT_VERSION, Manifest, Piece, Progress, TensorEntry
from mai.checkpoint.shard_file import FileDigest, in_files, write_hashed
from mai.engine.device import Device
from mai.engine.shard import WEIGHT
from mai.errors import CheckpointError
from mai.model.hf_rules import Making, Repeated, Rule, Target
from mai.recipe import Recipe, fingerprint
from mai.run_folder import RunFolder
from mai.workers import Workers

SHARD_BYTES = 2**30
"""Small enough that a few processes have something to do, large enough that 500 billion parameters are 2,000 files."""


@dataclass(frozen=True, slots=True)
class Imported:
    num_tensors: int
    num_quantised: int
    """How many of the source's tensors were quantised; what they stand for was imported."""
    shard_files: int
    peak_memory_bytes: int
    """The most that any process held."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file to write."""

    name: str
    parts: Sequence[tuple[Rule, Piece]]
    source: HfFolder
    """With the tensors that it is made of, and no others: it travels to another process."""


def import_hf(
    source: HfFolder,
    rules: Sequence[Rule],
    recipe: Recipe,
    run: RunFolder,
    *,
    workers: int,
    shard_bytes: int = SHARD_BYTES,
) -> Imported:
    """Commit the checkpoint; `source` fits the recipe's model but for rows of the vocabulary, which are filled up with
    zeros."""
    shapes = shapes_of(recipe.model)
    temporary = store.temporary_folder(run.checkpoints, 0, 1)
    temporary.mkdir(mode=0o750, parents=True)
    files = list(_plan(source, rules, shapes, shard_bytes))
    with Workers(workers) as processes:
        digests, peaks = zip(*processes.in_order(partial(_write, folder=temporary), files), strict=True)
    pieces: dict[str, list[Piece]] = {}
    for rule, piece in (part for file in files for part in file.parts):
        pieces.setdefault(rule.target.name, []).append(piece)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        progress=Progress(step=0, position=0, tokens=0, updates=0),
        states=[WEIGHT],
        layout={},
        recipe_fingerprint=fingerprint(recipe),
        data_fingerprint="",
        files={file.name: digest for file, digest in zip(files, digests, strict=True)},
        tensors={name: TensorEntry(shape=shapes[name], pieces=found) for name, found in pieces.items()},
    )
    store.commit(temporary, store.step_folder(run.checkpoints, 0), manifest.to_json())
    _keep_side_files(source, run)
    return Imported(len(source.tensors), source.num_quantised, len(files), max(peaks))


def _plan(
    source: HfFolder, rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]], shard_bytes: int
) -> Iterator[_File]:
    def num_bytes(rule: Rule) -> int:
        return 4 * math.prod(_box(rule.target, shapes)[1])

    for number, group in enumerate(in_files(rules, num_bytes, most=shard_bytes)):
        name = f"rank-{number:05d}.safetensors"
        needed = {source.name for rule in group for source in rule.making.sources}
        own = replace(source, tensors={name: source.tensors[name] for name in sorted(needed)})
        yield _File(name, [(rule, _piece(rule.target, shapes, name)) for rule in group], own)


def _box(target: Target, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where in our tensor the target lies: offset and shape."""
    shape = shapes[target.name]
    if target.expert is None:
        return tuple(0 for _ in shape), shape
    return (target.expert, *(0 for _ in shape[1:])), (1, *shape[1:])


def _piece(target: Target, shapes: Mapping[str, tuple[int, ...]], file: str) -> Piece:
    offset, box = _box(target, shapes)
    return Piece(file, f"{target.name}@{','.join(map(str, offset))}", offset, box, 0, math.prod(box))


def _write(file: _File, *, folder: Path) -> tuple[FileDigest, int]:
    """Returns its digest, and the most memory that this process has held."""
    entries = [(f"{piece.key}.weight", "F32", (piece.stop,)) for _, piece in file.parts]
    tensors = (_made(file.source, rule, piece) for rule, piece in file.parts)
    return write_hashed(folder / file.name, entries, tensors), Device("cpu", 0).peak_memory_bytes()


def _made(source: HfFolder, rule: Rule, piece: Piece) -> Tensor:
    tensors = [source.read(one) for one in rule.making.sources]
    _refuse_unequal(rule.making, tensors)
    made = to_ours(rule.making, tensors)
    if rule.target.expert is None:
        made = _filled_up(made, rows=piece.shape[0])
    return made.float().flatten()


def _refuse_unequal(making: Making, tensors: Sequence[Tensor]) -> None:
    if isinstance(making, Repeated) and not all(torch.equal(tensors[0], other) for other in tensors[1:]):
        names = ", ".join(source.name for source in making.sources)
        raise CheckpointError(f"{names}: differ, and must be one tensor under several names")


def _filled_up(tensor: Tensor, *, rows: int) -> Tensor:
    missing = rows - tensor.size(0)
    return tensor if missing == 0 else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _keep_side_files(source: HfFolder, run: RunFolder) -> None:
    take_side_files(source.path, run)
    dtypes = {name: located.dtype for name, located in source.tensors.items()}
    (run.path / CAME_AS).write_text(json.dumps(dtypes, indent=1), encoding="ascii")
