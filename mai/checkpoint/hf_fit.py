"""Whether a Hugging Face folder is a model that we know: its family, its sizes, and every tensor in its place."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError

from mai.checkpoint.hf_folder import HfFolder, first_of, noting, read_config, read_headers
from mai.checkpoint.hf_tensors import to_ours
from mai.errors import CheckpointError
from mai.model.families.choose_family import FAMILIES, reader
from mai.model.hf_rules import Repeated, Rule, Source
from mai.model.shapes import buffers, parameters
from mai.recipe import ModelConfig


@dataclass(frozen=True, slots=True)
class Fit:
    """A folder that is a model that we know."""

    folder: HfFolder
    model: ModelConfig
    rules: Sequence[Rule]
    told: Sequence[str]
    """What of the folder is not obeyed or left out, and changes nothing of the model as it is."""


def fit(path: Path) -> Fit:
    """Open the folder and hold it against its config.json; raises CheckpointError with all that is wrong."""
    wrong: list[str] = []
    with noting(wrong):
        config = read_config(path)
        family, model, told = _family_and_model(config, path / "config.json")
    with noting(wrong):
        tensors, num_left_out = read_headers(path)
    if wrong:
        raise CheckpointError("\n".join(wrong))
    folder = HfFolder(path, config, tensors)
    model, rules = _as_far_as_written(family, folder, model)
    check_fit(folder, model, rules)
    if num_left_out:
        told.append(f"{num_left_out} tensors are left out: they are buffers that follow from config.json")
    return Fit(folder, model, rules, told)


def _family_and_model(config: Mapping[str, Any], file: Path) -> tuple[ModuleType, ModelConfig, list[str]]:
    """With what is to be told; raises CheckpointError with all that the config says that we do not do."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{file}: model_type={kind!r} is no family that mai knows; it knows {', '.join(FAMILIES)}"
        )
    family, values = FAMILIES[kind], reader(kind, config)
    wrong: list[str] = []
    try:
        with noting(wrong):
            found: ModelConfig = family.model_of(values)
    except ValidationError as error:
        wrong += [f"{file}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    with noting(wrong):
        values.finish(f"{file}")
    if wrong:
        raise CheckpointError("\n".join(wrong))
    return family, found, values.told


def _as_far_as_written(family: ModuleType, folder: HfFolder, model: ModelConfig) -> tuple[ModelConfig, Sequence[Rule]]:
    """transformers neither reads nor writes further depths, and leaves them in the config (modeling_deepseek_v3.py,
    _keys_to_ignore_on_load_unexpected)."""
    without = replace(model, multi_token_depths=0)
    every, known = (with_stored_head(_rules(family, folder, each), folder.tensors) for each in (model, without))
    further = _source_names(every) - _source_names(known)
    return (without, known) if further.isdisjoint(folder.tensors) else (model, every)


def with_stored_head(rules: Sequence[Rule], names: Collection[str]) -> list[Rule]:
    """Where the output layer is the embedding, and the folder holds it all the same."""
    if _HEAD not in names or _HEAD in _source_names(rules):
        return list(rules)
    return [
        replace(rule, making=Repeated((*rule.making.sources, Source(_HEAD))))
        if rule.target.name == "embedding.word_embeddings.weight"
        else rule
        for rule in rules
    ]


_HEAD = "lm_head.weight"


def _source_names(rules: Sequence[Rule]) -> set[str]:
    return {source.name for rule in rules for source in rule.making.sources}


def _rules(family: ModuleType, folder: HfFolder, model: ModelConfig) -> list[Rule]:
    """The family's weight map; a config.json that names a billion layers is told, and not gone through."""
    entries = max((located.shape[0] for located in folder.tensors.values() if len(located.shape) > 2), default=1)
    most = 1000 + 2 * len(folder.tensors) * entries
    rules = list(islice(family.rules(model), most + 1))
    if len(rules) > most:
        raise CheckpointError(
            f"{folder.path / 'config.json'}: names more layers or experts than {len(folder.tensors)} tensors can be"
        )
    return rules


@cache
def shapes_of(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """The shape of every tensor of ours that a weight map makes, by name."""
    return {parameter.name: parameter.shape for parameter in (*parameters(model), *buffers(model))}


def check_fit(folder: HfFolder, model: ModelConfig, rules: Sequence[Rule]) -> None:
    """Every tensor of the folder is used, every tensor of ours is made, in its shape; CheckpointError lists the rest.

    `model` as the folder has it."""
    wrong: list[str] = []
    named = _source_names(rules)
    wrong += [f"{name}: missing" for name in sorted(named - folder.tensors.keys())]
    wrong += [f"{name}: not a part of this model" for name in sorted(folder.tensors.keys() - named)]
    wanted = shapes_of(model)
    for rule in rules:
        if any(source.name not in folder.tensors for source in rule.making.sources):
            continue
        shape = wanted[rule.target.name][0 if rule.target.expert is None else 1 :]
        try:
            made = tuple(to_ours(rule.making, [_empty(folder, source) for source in rule.making.sources]).shape)
        except (RuntimeError, IndexError, ValueError):
            made = ()
        if made != shape:
            given = ", ".join(
                f"{source.name} {list(folder.tensors[source.name].shape)}" for source in rule.making.sources
            )
            wrong.append(f"{given}: cannot be {rule.target.name} {list(shape)}")
    if wrong:
        raise CheckpointError("\n".join([f"{folder.path}: does not fit its config.json", *first_of(wrong)]))


def _empty(folder: HfFolder, source: Source) -> torch.Tensor:
    shape = folder.tensors[source.name].shape
    if source.entry is None:
        return torch.empty(shape, device="meta")
    if not shape or shape[0] != source.num_entries:
        raise ValueError(shape)
    return torch.empty(shape[1:], device="meta")
