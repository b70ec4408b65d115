"""A Hugging Face folder -> a checkpoint of ours at step 0, tensor by tensor.

At most the sources of one of our tensors (one expert's, where there are experts), that tensor, and the shard that is
being filled are in memory. A checkpoint of ours knows no layout: any one loads it. It holds no moments; they begin at
zero.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mai.checkpoint import store
from mai.checkpoint.hf_fit import shapes_of
from mai.checkpoint.hf_folder import HfFolder
from mai.checkpoint.hf_tensors import to_ours
from mai.checkpoint.manifest import FORMAT_VERSION, Manifest, Piece, Progress, TensorEntry
from mai.checkpoint.shard_file import FileDigest, write_tensors
from mai.errors import CheckpointError
from mai.model.hf_rules import Making, Repeated, Rule, Target
from mai.recipe import Recipe, fingerprint
from mai.run_folder import RunFolder

SHARD_BYTES = 4 * 2**30

SIDE_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Kept below `hf/` of the run folder, for the way back; tokenizer.json stands where every run has it."""


@dataclass(frozen=True, slots=True)
class Imported:
    num_tensors: int
    num_quantised: int
    """Of the source's tensors; what they stand for was imported."""
    shard_files: int


def import_hf(
    source: HfFolder,
    rules: Sequence[Rule],
    recipe: Recipe,
    run: RunFolder,
    *,
    advance: Callable[[int], None],
    shard_bytes: int = SHARD_BYTES,
) -> Imported:
    """Commit the checkpoint; `source` fits the recipe's model but for rows of the vocabulary, which are filled up with
    zeros. `advance` is told bytes as they are written."""
    shapes = shapes_of(recipe.model)
    temporary = store.temporary_folder(run.checkpoints, 0, 1)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o750, parents=True)
    writer = _Writer(temporary, shapes, shard_bytes=shard_bytes)
    for rule in rules:
        tensors = [source.read(one) for one in rule.making.sources]
        _refuse_unequal(rule.making, tensors)
        made = to_ours(rule.making, tensors)
        writer.add(rule.target, made)
        advance(made.numel() * 4)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        progress=Progress(step=0, position=0, tokens=0, updates=0),
        states=["weight"],
        layout={},
        recipe_fingerprint=fingerprint(recipe),
        data_fingerprint="",
        files=writer.finish(),
        tensors={name: TensorEntry(shape=shapes[name], pieces=pieces) for name, pieces in writer.pieces.items()},
    )
    store.commit(temporary, store.step_folder(run.checkpoints, 0), manifest.to_json())
    _keep_side_files(source, run)
    return Imported(len(source.tensors), source.num_quantised, len(manifest.files))


def _refuse_unequal(making: Making, tensors: Sequence[Tensor]) -> None:
    if isinstance(making, Repeated) and not all(torch.equal(tensors[0], other) for other in tensors[1:]):
        names = ", ".join(source.name for source in making.sources)
        raise CheckpointError(f"{names}: differ, and must be one tensor under several names")


class _Writer:
    """Fills one file after the other."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], *, shard_bytes: int) -> None:
        self._folder, self._shapes, self._shard_bytes = folder, shapes, shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._files: dict[str, FileDigest] = {}
        self.pieces: dict[str, list[Piece]] = {}

    def add(self, target: Target, made: Tensor) -> None:
        shape = self._shapes[target.name]
        if target.expert is not None:
            offset, box = (target.expert, *(0 for _ in shape[1:])), (1, *shape[1:])
        else:
            offset, box = tuple(0 for _ in shape), shape
            made = _filled_up(made, rows=shape[0])
        key = f"{target.name}@{','.join(map(str, offset))}"
        self._waiting[f"{key}.weight"] = made.float().flatten()
        piece = Piece(self._file_name, key, offset, box, 0, made.numel())
        self.pieces.setdefault(target.name, []).append(piece)
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= self._shard_bytes:
            self._flush()

    def finish(self) -> dict[str, FileDigest]:
        if self._waiting:
            self._flush()
        return self._files

    @property
    def _file_name(self) -> str:
        return f"rank-{len(self._files):05d}.safetensors"

    def _flush(self) -> None:
        name = self._file_name
        self._files[name] = write_tensors(self._folder / name, self._waiting)
        self._waiting = {}


def _filled_up(tensor: Tensor, *, rows: int) -> Tensor:
    missing = rows - tensor.size(0)
    return tensor if missing == 0 else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _keep_side_files(source: HfFolder, run: RunFolder) -> None:
    folder = run.path / "hf"
    folder.mkdir(mode=0o750, exist_ok=True)
    for name in SIDE_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    dtypes = {name: located.dtype for name, located in source.tensors.items()}
    (folder / "dtypes.json").write_text(json.dumps(dtypes, indent=1), encoding="ascii")
    if (source.path / "tokenizer.json").is_file():
        shutil.copyfile(source.path / "tokenizer.json", run.tokenizer)


def end_token_of(config: Mapping[str, Any]) -> int | None:
    """The token that ends a text, as config.json says."""
    token = config.get("eos_token_id")
    return token[0] if isinstance(token, list) and token else token if isinstance(token, int) else None
