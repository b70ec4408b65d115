"""Whether a Hugging Face folder is a model that we know: its family, its sizes, and every tensor in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType

import torch
from pydantic import ValidationError

from mai.checkpoint.hf_folder import HfFolder
from mai.checkpoint.hf_tensors import to_ours
from mai.errors import CheckpointError, RecipeError
from mai.model.families.choose import FAMILIES
from mai.model.hf_config import HfConfig
from mai.model.hf_rules import Rule, Source
from mai.model.shapes import buffers, parameters
from mai.recipe import ModelConfig

_MOST = 20


def family_of_folder(folder: HfFolder) -> ModuleType:
    kind = folder.config.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(
            f"{folder.path / 'config.json'}: model_type={kind!r} is no family that mai knows; it knows "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def model_of_folder(folder: HfFolder) -> ModelConfig:
    """Raises CheckpointError with all that its config.json says that we do not do."""
    config, family = HfConfig(folder.config), family_of_folder(folder)
    try:
        model: ModelConfig = family.model_of(config)
        config.finish(f"{folder.path / 'config.json'}")
    except RecipeError as error:
        raise CheckpointError("\n".join(error.violations)) from error
    except ValidationError as error:
        raise CheckpointError(f"{folder.path / 'config.json'}: {error}") from error
    return _as_far_as_written(folder, family, model)


def _as_far_as_written(folder: HfFolder, family: ModuleType, model: ModelConfig) -> ModelConfig:
    """transformers neither reads nor writes further depths, and leaves them in the config (modeling_deepseek_v3.py,
    _keys_to_ignore_on_load_unexpected)."""
    without = replace(model, multi_token_depths=0)
    every, known = (
        {source.name for rule in family.rules(each) for source in rule.making.sources} for each in (model, without)
    )
    return without if (every - known).isdisjoint(folder.tensors) else model


@cache
def shapes_of(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Of every tensor of ours that a weight map makes."""
    return {parameter.name: parameter.shape for parameter in (*parameters(model), *buffers(model))}


def check_fit(folder: HfFolder, model: ModelConfig, rules: Sequence[Rule]) -> None:
    """Every tensor of the folder is used, every tensor of ours is made, in its shape; CheckpointError lists the rest.

    `model` as the folder has it."""
    wrong: list[str] = []
    named = {source.name for rule in rules for source in rule.making.sources}
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
        more = [f"and {len(wrong) - _MOST} more"] if len(wrong) > _MOST else []
        raise CheckpointError("\n".join([f"{folder.path}: does not fit its config.json", *wrong[:_MOST], *more]))


def _empty(folder: HfFolder, source: Source) -> torch.Tensor:
    shape = folder.tensors[source.name].shape
    if source.entry is None:
        return torch.empty(shape, device="meta")
    if not shape or shape[0] != source.num_entries:
        raise ValueError(shape)
    return torch.empty(shape[1:], device="meta")
