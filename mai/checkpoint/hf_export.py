"""A checkpoint of ours -> a Hugging Face folder, tensor by tensor.

Of a run that was imported, every tensor goes out in the dtype in which it came in, and the config is the one that came;
so what was not trained comes back bit for bit. Of another run, config and dtype follow from its recipe.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mai.checkpoint import load, store
from mai.checkpoint.hf_fit import shapes_of
from mai.checkpoint.hf_import import SIDE_FILES
from mai.checkpoint.hf_tensors import to_theirs
from mai.checkpoint.manifest import Manifest, read_manifest
from mai.checkpoint.shard_file import write_stream
from mai.engine.sharded_state import Block, Shard
from mai.errors import CheckpointError, RecipeError, UsageError
from mai.model.families.choose import FAMILIES, family_of
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule, Source, Target
from mai.recipe import ModelConfig, Recipe
from mai.run_folder import RunFolder, naming_storage_errors

SHARD_BYTES = 5 * 10**9
"""What Hugging Face's own writer cuts at, about."""

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class Exported:
    step: int
    num_tensors: int
    files: Sequence[str]


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


def export_hf(
    recipe: Recipe,
    run: RunFolder,
    out: Path,
    *,
    step: int | None,
    advance: Callable[[int], None],
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write the folder as a whole: under another name first. Raises CheckpointError and UsageError."""
    if out.exists():
        raise UsageError(f"{out} is there already; name a folder that is not")
    folder, manifest = _checkpoint(run, step)
    config = run.read_json("hf/config.json")
    family, config = _family_and_config(recipe, config)
    plan = _plan(family, recipe, config, run.read_json("hf/dtypes.json"))
    everything = [
        _shard(Target(name), torch.empty(shape, device="meta"), shape)
        for name, shape in shapes_of(recipe.model).items()
    ]
    load.verify_files(folder, manifest, everything)
    temporary = out.with_name(f".{out.name}.tmp")
    with naming_storage_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = _write_all(plan, temporary, _Reader(folder, manifest, recipe.model), shard_bytes, advance)
        _write_json(temporary / "config.json", config)
        for name in SIDE_FILES[1:]:
            if (run.path / "hf" / name).is_file():
                shutil.copyfile(run.path / "hf" / name, temporary / name)
        if run.tokenizer.is_file():
            shutil.copyfile(run.tokenizer, temporary / "tokenizer.json")
        temporary.rename(out)
    return Exported(manifest.progress.step, len(plan), files)


def num_bytes(recipe: Recipe) -> int:
    """Of fp32, as they are read: for a progress bar."""
    return 4 * sum(math.prod(shape) for shape in shapes_of(recipe.model).values())


def _checkpoint(run: RunFolder, step: int | None) -> tuple[Path, Manifest]:
    steps = store.committed_steps(run.checkpoints)
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"{run.checkpoints} holds {wanted}; it holds {steps}")
    folder = store.step_folder(run.checkpoints, steps[-1] if step is None else step)
    return folder, read_manifest(folder)


def _family_and_config(recipe: Recipe, config: dict[str, Any] | None) -> tuple[ModuleType, dict[str, Any]]:
    if config is not None:
        return FAMILIES[config["model_type"]], config
    name = family_of(recipe.model)
    family = FAMILIES[name]
    made: dict[str, Any] = family.config_of(recipe.model, context=recipe.data.sequence_length)
    made = {**made, "dtype": "bfloat16" if recipe.precision.compute == "bf16" else "float32"}
    if lost := _lost(recipe.model, family, made):
        raise RecipeError(*(f"model.{field}: {name} has no such thing, so it cannot be exported" for field in lost))
    return family, made


def _lost(model: ModelConfig, family: ModuleType, made: Mapping[str, Any]) -> list[str]:
    """Fields that are not the same when the config is read back; what only training knows does not count."""
    back = family.model_of(HfConfig(made))
    trained_only = ("layer", "attention_core", "init_std")
    fields = [field for field in ModelConfig.__dataclass_fields__ if field not in (*trained_only, "feed_forward")]
    own = [field for field in ("layer", "attention_core") if getattr(model, field) is not None]
    lost = [field for field in fields if getattr(model, field) != getattr(back, field)]
    if (experts := model.experts) is not None:
        balancing = {"auxiliary_loss", "auxiliary_loss_weight", "bias_update_rate"}
        their = back.experts
        lost += [
            f"feed_forward.{field}"
            for field in type(experts).__dataclass_fields__
            if field not in balancing and getattr(experts, field) != getattr(their, field)
        ]
    return [*own, *lost]


def _plan(
    family: ModuleType, recipe: Recipe, config: Mapping[str, Any], dtypes: Mapping[str, str] | None
) -> list[_Tensor]:
    """Every tensor of theirs, in the order of the weight map."""
    made_of: dict[str, list[tuple[Source, Rule]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in family.rules(recipe.model):
        for source, tensor in to_theirs(rule.making, _empty(rule.target, recipe.model, device="meta")).items():
            made_of.setdefault(source.name, []).append((source, rule))
            entries = () if source.entry is None else (source.num_entries,)
            rows = (int(config["vocab_size"]),) if rule.target.name in _VOCABULARY else tensor.shape[:1]
            shapes[source.name] = (*entries, *rows, *tensor.shape[1:])
    default = "BF16" if recipe.precision.compute == "bf16" else "F32"
    return [_Tensor(name, shapes[name], (dtypes or {}).get(name, default), rules) for name, rules in made_of.items()]


# Rows that were filled up, for tensor ranks to divide, are left out again.
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
    return Shard(block, 0, tensor.numel(), {"weight": tensor.view(-1)})


class _Reader:
    """Tensors of a checkpoint; the last one is kept, because several of theirs are made of one of ours."""

    def __init__(self, folder: Path, manifest: Manifest, model: ModelConfig) -> None:
        self._folder, self._manifest, self._model = folder, manifest, model
        self._last: tuple[Rule, dict[Source, Tensor]] | None = None

    def read(self, source: Source, rule: Rule) -> Tensor:
        if self._last is None or self._last[0] != rule:
            ours = _empty(rule.target, self._model, device="cpu")
            shard = _shard(rule.target, ours, shapes_of(self._model)[rule.target.name])
            load.fill(self._folder, self._manifest, [shard])
            self._last = (rule, to_theirs(rule.making, ours))
        return self._last[1][source]


def _write_all(
    plan: Sequence[_Tensor], folder: Path, reader: _Reader, shard_bytes: int, advance: Callable[[int], None]
) -> list[str]:
    groups = list(_groups(plan, shard_bytes))
    names = [
        "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        for number in range(1, len(groups) + 1)
    ]
    for name, group in zip(names, groups, strict=True):
        tensors = (_made(one, reader, advance) for one in group)
        write_stream(folder / name, [(one.name, one.dtype, one.shape) for one in group], tensors)
    if len(groups) > 1:
        weight_map = {one.name: name for name, group in zip(names, groups, strict=True) for one in group}
        total = sum(one.num_bytes for one in plan)
        _write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    return names


def _groups(plan: Sequence[_Tensor], shard_bytes: int) -> Iterator[list[_Tensor]]:
    group: list[_Tensor] = []
    for one in plan:
        if group and sum(other.num_bytes for other in (*group, one)) > shard_bytes:
            yield group
            group = []
        group.append(one)
    yield group


def _made(one: _Tensor, reader: _Reader, advance: Callable[[int], None]) -> Tensor:
    parts = [reader.read(source, rule) for source, rule in one.rules]
    tensor = parts[0] if one.rules[0][0].entry is None else torch.stack(parts)
    advance(tensor.numel() * 4)
    if one.rules[0][1].target.name in _VOCABULARY:
        tensor = tensor[: one.shape[0]]
    return tensor.to(DTYPES[one.dtype]).contiguous()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
