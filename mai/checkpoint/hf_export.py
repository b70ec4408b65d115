"""A checkpoint of ours -> a Hugging Face folder, tensor by tensor, in one process or several.

Of a run that was imported, every tensor goes out in the dtype in which it came in, and the config is the one that came;
so what was not trained comes back bit for bit. Of another run, config and dtype follow from its recipe.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mai.checkpoint import load_shards, store
from mai.checkpoint.hf_fit import shapes_of, with_stored_head
from mai.checkpoint.hf_side_files import CAME_AS, CONFIG, exported_config, give_side_files
from mai.checkpoint.hf_tensors import to_theirs
from mai.checkpoint.manifest import Manifest, read_manifest
from mai.checkpoint.shard_file import DTYPES, FileDigest, in_files, verify, write_stream
from mai.engine.device import Device
from mai.engine.shard import WEIGHT, Block, Shard
from mai.errors import CheckpointError, RecipeError
from mai.model.families.choose_family import FAMILIES, family_of, lost, read_model
from mai.model.hf_rules import Rule, Source, Target
from mai.recipe import ModelConfig, Recipe
from mai.run_folder import RunFolder
from mai.workers import Workers

SHARD_BYTES = 5 * 10**9
"""What Hugging Face's own writer cuts at, about."""


@dataclass(frozen=True, slots=True)
class Exported:
    step: int
    num_tensors: int
    files: Sequence[str]
    peak_memory_bytes: int
    """The most that any process held."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor to write, with what it is made of."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rules: Sequence[tuple[Source, Rule]]
    """One, or one for each entry of its first axis."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class _File:
    """One file to write."""

    name: str
    tensors: Sequence[_Tensor]
    manifest: Manifest
    """Names the tensors that these are made of, and no others: it travels to another process."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written, and of what."""

    model: ModelConfig
    checkpoint: Path
    manifest: Manifest
    config: Mapping[str, Any]
    tensors: Sequence[_Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.tensors)


def plan_export(recipe: Recipe, run: RunFolder, *, step: int | None) -> Export:
    """Raises CheckpointError and UsageError."""
    checkpoint, manifest = _checkpoint(run, step)
    family, config = _family_and_config(recipe, run)
    tensors = _plan(family, recipe, config, run.read_json(CAME_AS))
    return Export(recipe.model, checkpoint, manifest, config, tensors)


def export_hf(
    export: Export, run: RunFolder, folder: Path, *, workers: int, shard_bytes: int = SHARD_BYTES
) -> Exported:
    """Fill the folder, which is there and empty. Raises CheckpointError where the checkpoint is damaged."""
    shapes = shapes_of(export.model)
    everything = [_shard(Target(name), torch.empty(shapes[name], device="meta"), shapes[name]) for name in shapes]
    needed = load_shards.needed_tensors(export.checkpoint, export.manifest, everything)
    to_verify = [(export.checkpoint / name, export.manifest.files[name], holds) for name, holds in needed.items()]
    files = _files(export, shard_bytes)
    write = partial(_write, folder=folder, checkpoint=export.checkpoint, model=export.model)
    with Workers(workers) as processes:
        # All of it before any of it is used.
        list(processes.in_order(_verify, to_verify))
        peak = max(processes.in_order(write, files))
    if len(files) > 1:
        weight_map = {one.name: file.name for file in files for one in file.tensors}
        index = {"metadata": {"total_size": export.num_bytes}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", export.config)
    give_side_files(run, folder)
    return Exported(export.manifest.progress.step, len(export.tensors), [file.name for file in files], peak)


def _verify(expected: tuple[Path, FileDigest, set[str]]) -> None:
    path, digest, holds = expected
    verify(path, digest, holds=holds)


def _checkpoint(run: RunFolder, step: int | None) -> tuple[Path, Manifest]:
    steps = store.committed_steps(run.checkpoints)
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"{run.checkpoints} holds {wanted}; it holds {steps}")
    folder = store.step_folder(run.checkpoints, steps[-1] if step is None else step)
    return folder, read_manifest(folder)


def _family_and_config(recipe: Recipe, run: RunFolder) -> tuple[ModuleType, dict[str, Any]]:
    """What came, where the run was imported or starts from one that was and is still that model; else what we write."""
    model, length = recipe.model, recipe.data.sequence_length
    came = run.read_json(CONFIG)
    if came is not None:
        name = came["model_type"]
        if _is_same(read_model(name, came), model):
            config = exported_config(came, sequence_length=length)
            # For some kinds of positions the longest context is a part of the model.
            longest = {"max_position_embeddings": came.get("max_position_embeddings")}
            return FAMILIES[name], config if _is_same(read_model(name, config), model) else {**config, **longest}
    name = family_of(model)
    if missing := lost(model, name):
        raise RecipeError(*(f"model.{field}: {name} has no such thing, so it cannot be exported" for field in missing))
    made: dict[str, Any] = FAMILIES[name].config_of(model, context=length)
    tokens = _token_ids(run)
    return FAMILIES[name], {**made, **tokens, "dtype": recipe.precision.format.torch}


def _token_ids(run: RunFolder) -> dict[str, Any]:
    """What plays which part, for a model that did not come from there: else transformers takes tokens of its own."""
    said = run.read_json("run.json") or {}
    roles = said.get("tokens") or {"document_end": said["end_token"]}
    ends = [roles[role] for role in ("document_end", "message_end") if role in roles]
    return {
        "bos_token_id": roles.get("beginning"),
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": roles.get("padding"),
    }


def _is_same(model: ModelConfig, other: ModelConfig) -> bool:
    """But for rows that fill up the vocabulary, further depths, which a config.json names that has none, and what only
    training knows."""
    return _told(model) == _told(other)


def _told(model: ModelConfig) -> ModelConfig:
    feed_forward = model.feed_forward
    if model.experts is not None:
        feed_forward = replace(model.experts, auxiliary_loss="none", auxiliary_loss_weight=0.0, bias_update_rate=0.0)
    return replace(
        model,
        vocab_size=1,
        multi_token_depths=0,
        init_std=1.0,
        layer=None,
        attention_core=None,
        feed_forward=feed_forward,
    )


def _plan(
    family: ModuleType, recipe: Recipe, config: Mapping[str, Any], dtypes: Mapping[str, str] | None
) -> list[_Tensor]:
    """Every tensor of theirs, in the order of the weight map."""
    made_of: dict[str, list[tuple[Source, Rule]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in with_stored_head(list(family.rules(recipe.model)), dtypes or ()):
        for source, tensor in to_theirs(rule.making, _empty(rule.target, recipe.model, device="meta")).items():
            made_of.setdefault(source.name, []).append((source, rule))
            entries = () if source.entry is None else (source.num_entries,)
            rows = (int(config["vocab_size"]),) if rule.target.name in _VOCABULARY else tensor.shape[:1]
            shapes[source.name] = (*entries, *rows, *tensor.shape[1:])
    default = recipe.precision.format.safetensors
    return [_Tensor(name, shapes[name], (dtypes or {}).get(name, default), rules) for name, rules in made_of.items()]


_VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")


def _empty(target: Target, model: ModelConfig, *, device: str) -> Tensor:
    shape = shapes_of(model)[target.name]
    return torch.empty(shape if target.expert is None else shape[1:], device=device)


def _shard(target: Target, tensor: Tensor, shape: tuple[int, ...]) -> Shard:
    """The tensor as something that a checkpoint can fill."""
    expert = target.expert
    offset = tuple(0 for _ in shape) if expert is None else (expert, *(0 for _ in shape[1:]))
    box = shape if expert is None else (1, *shape[1:])
    block = Block(target.name, shape, offset, box, is_replica=False)
    return Shard(block, 0, tensor.numel(), {WEIGHT: tensor.view(-1)})


class _Reader:
    """Tensors of a checkpoint; the last one is kept, because several of theirs are made of one of ours."""

    def __init__(self, folder: Path, manifest: Manifest, model: ModelConfig) -> None:
        self._folder, self._manifest, self._model = folder, manifest, model
        self._last: tuple[Rule, dict[Source, Tensor]] | None = None

    def read(self, source: Source, rule: Rule) -> Tensor:
        if self._last is None or self._last[0] != rule:
            # Before the next one comes.
            self._last = None
            ours = _empty(rule.target, self._model, device="cpu")
            shard = _shard(rule.target, ours, shapes_of(self._model)[rule.target.name])
            load_shards.fill(self._folder, self._manifest, [shard])
            self._last = (rule, to_theirs(rule.making, ours))
        return self._last[1][source]


def _files(export: Export, shard_bytes: int) -> list[_File]:
    groups = list(in_files(export.tensors, lambda one: one.num_bytes, most=shard_bytes))
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    if len(groups) == 1:
        names = ["model.safetensors"]
    return [_File(name, group, _manifest_of(group, export.manifest)) for name, group in zip(names, groups, strict=True)]


def _manifest_of(tensors: Sequence[_Tensor], manifest: Manifest) -> Manifest:
    names = sorted({rule.target.name for one in tensors for _, rule in one.rules})
    return replace(manifest, tensors={name: manifest.tensors[name] for name in names}, files={})


def _write(file: _File, *, folder: Path, checkpoint: Path, model: ModelConfig) -> int:
    """Returns the most memory that this process has held."""
    reader = _Reader(checkpoint, file.manifest, model)
    entries = [(one.name, one.dtype, one.shape) for one in file.tensors]
    tensors = (_made(one, reader) for one in file.tensors)
    write_stream(folder / file.name, entries, tensors, metadata={"format": "pt"})
    return Device("cpu", 0).peak_memory_bytes()


def _made(one: _Tensor, reader: _Reader) -> Tensor:
    source, rule = one.rules[0]
    if source.entry is None:
        # Rows that were filled up, for tensor ranks to divide, are left out again.
        rows = slice(one.shape[0]) if rule.target.name in _VOCABULARY else slice(None)
        return reader.read(source, rule)[rows].to(DTYPES[one.dtype]).contiguous()
    # Entry by entry into place: all of them at once would be the tensor a second time.
    whole = torch.empty(one.shape, dtype=DTYPES[one.dtype])
    for part, rule in one.rules:
        whole[part.entry] = reader.read(part, rule)
    return whole


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
