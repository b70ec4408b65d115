"""A run folder made of a Hugging Face folder, and the other way."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mai.checkpoint import hf_export, hf_import
from mai.checkpoint.hf_fit import fit
from mai.checkpoint.hf_folder import HfFolder, noting, read_config, read_json
from mai.checkpoint.hf_side_files import passed_over
from mai.data.progress_bar import folder_progress
from mai.data.token_roles import Roles, roles_that_are_said
from mai.errors import CheckpointError, DataError, UsageError
from mai.model.shapes import num_parameters
from mai.recipe import (
    CheckpointConfig,
    Cosine,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    PrecisionConfig,
    Recipe,
    TrainConfig,
    fingerprint,
    override,
    to_dict,
)
from mai.recipe.data import TokenRoles
from mai.recipe.precision import FORMATS, FormatName
from mai.run_folder import RunFolder, naming_storage_errors, utc_now, whole_or_nothing
from mai.train.versions import commit, versions

_MOST_SEQUENCE = 1024


@dataclass(frozen=True, slots=True)
class ImportedRun:
    recipe: str
    """File to train from: mai train RECIPE --run ANOTHER."""
    parameters: int
    tensors: int
    dequantised: int
    files: int
    peak_memory_bytes: int
    """The most that any process held."""
    told: Sequence[str]
    """What of the folder is not obeyed or left out, and changes nothing of the model as it is."""


def import_run(
    source: Path, run: RunFolder, overrides: Sequence[str], *, progress: bool, workers: int | None = None
) -> ImportedRun:
    """Raises CheckpointError with all that does not fit, and RecipeError for overrides; the run folder is there as a
    whole, or not at all."""
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UsageError(f"{run.path} is there already, and holds something; name a folder that does not")
    wrong: list[str] = []
    with noting(wrong):
        fitted = fit(source)
    with noting(wrong):
        wanted, roles, about_tokens = _tokens(HfFolder(source, read_config(source), {}))
    if wrong:
        raise CheckpointError("\n".join(dict.fromkeys(wrong)))
    recipe = override.apply(_recipe(fitted.model, fitted.folder, run, wanted), overrides)
    _check_same_model(fitted.model, recipe.model)
    total_bytes = 4 * num_parameters(recipe.model)
    with naming_storage_errors(run.path), whole_or_nothing(run.path.absolute()) as path:
        made = RunFolder(path)
        made.create()
        with folder_progress("import", path, total_bytes, shown=progress):
            workers = workers or _workers_for(total_bytes)
            done = hf_import.import_hf(fitted.folder, fitted.rules, recipe, made, workers=workers)
        made.write_json("recipe.json", to_dict(recipe))
        made.write_json("run.json", _description(source, recipe, roles))
    return ImportedRun(
        recipe=str(run.path / "recipe.json"),
        parameters=num_parameters(recipe.model),
        tensors=done.num_tensors,
        dequantised=done.num_quantised,
        files=done.shard_files,
        peak_memory_bytes=done.peak_memory_bytes,
        told=[*fitted.told, *about_tokens, *_about_files(source)],
    )


def export_run(
    recipe: Recipe, run: RunFolder, out: Path, *, step: int | None, progress: bool, workers: int | None = None
) -> dict[str, Any]:
    """The folder is there as a whole, or not at all."""
    if out.exists():
        raise UsageError(f"{out} is there already; name a folder that is not")
    export = hf_export.plan_export(recipe, run, step=step)
    with (
        naming_storage_errors(out),
        whole_or_nothing(out.absolute()) as path,
        folder_progress("export", path, export.num_bytes, shown=progress),
    ):
        workers = workers or _workers_for(4 * num_parameters(recipe.model))
        return asdict(hf_export.export_hf(export, run, path, workers=workers))


def _workers_for(fp32_bytes: int) -> int:
    """One a core, 8 at most: each holds the largest tensor twice. To start one takes as long as to write 2 GiB."""
    return min(os.cpu_count() or 1, 8, 1 + fp32_bytes // 2**31)


def _recipe(model: ModelConfig, source: HfFolder, run: RunFolder, tokens: TokenRoles) -> Recipe:
    """What `mai train` goes on with: gentle steps on Python's own sources until another text is named."""
    longest = source.config.get("max_position_embeddings")
    length = min(_MOST_SEQUENCE, longest) if isinstance(longest, int) and longest > 0 else _MOST_SEQUENCE
    # Whole paths: the recipe may be started from any folder.
    folder = RunFolder(run.path.resolve())
    return Recipe(
        name=folder.path.name,
        model=model,
        data=DataConfig(
            documents=("python:stdlib",),
            folder=f"data/{folder.path.name}",
            sequence_length=length,
            tokenizer=str(folder.tokenizer),
            tokens=tokens,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-5, schedule=Cosine(warmup_steps=10)),
        precision=PrecisionConfig(compute=_compute(source)),
        train=TrainConfig(steps=100, batch_tokens=8 * length),
        evaluate=EvaluateConfig(sequences=8),
        checkpoint=CheckpointConfig(start_from=str(folder.path)),
    )


def _compute(source: HfFolder) -> FormatName:
    """The format that config.json names, or else that all weights are in, where a model computes in that; else bf16."""
    named = {source.config.get("dtype"), source.config.get("torch_dtype")} - {None}
    dtypes = {located.dtype for located in source.tensors.values()}
    for known in FORMATS.values():
        if known.torch in named or (not named and dtypes == {known.safetensors}):
            return known.name
    return PrecisionConfig().compute


def _check_same_model(model: ModelConfig, changed: ModelConfig) -> None:
    """Rows of the vocabulary may be added, so that tensor ranks divide it; nothing else of the model may change."""
    if replace(changed, vocab_size=model.vocab_size) != model or changed.vocab_size < model.vocab_size:
        raise UsageError(
            "an import takes the model as it is; of its fields only model.vocab_size may be changed, to "
            f"{model.vocab_size} or more (the rows that are added are zeros)"
        )


def _tokens(folder: HfFolder) -> tuple[TokenRoles, Roles, list[str]]:
    """Which tokens play which part; their ids; and what is to be told. Raises DataError, of the tokenizer too."""
    path, said = folder.path / "tokenizer.json", _said_tokens(folder)
    if path.is_file():
        return roles_that_are_said(said, path)
    if not said["eos_token_id"]:
        raise DataError(
            f"{folder.path}: config.json names no eos_token_id, and there is no tokenizer.json that has one"
        )
    return TokenRoles(), Roles(document_end=said["eos_token_id"][0]), ["there is no tokenizer.json: it cannot speak"]


def _about_files(source: Path) -> list[str]:
    names = passed_over(source)
    return [f"neither read nor kept for an export: {', '.join(names)}"] if names else []


def _said_tokens(folder: HfFolder) -> dict[str, list[int]]:
    """What generation_config.json says, else config.json; each as a list. Raises DataError for a token that the
    vocabulary does not have."""
    generation = folder.path / "generation_config.json"
    sources = [read_json(generation) if generation.is_file() else {}, folder.config]
    found: dict[str, list[int]] = {}
    wrong = []
    # What begins a text, the tokenizer says.
    for key in ("eos_token_id", "pad_token_id"):
        values = [source[key] for source in sources if source.get(key) is not None]
        for value in values:
            tokens = value if isinstance(value, list) else [value]
            if not all(isinstance(token, int) and 0 <= token < folder.config["vocab_size"] for token in tokens):
                wrong.append(f"{folder.path}: {key}={value!r}: the vocabulary has {folder.config['vocab_size']} tokens")
            found.setdefault(key, tokens)
        found.setdefault(key, [])
    if wrong:
        raise DataError("\n".join(dict.fromkeys(wrong)))
    return found


def _description(source: Path, recipe: Recipe, roles: Roles) -> dict[str, Any]:
    return {
        "run_id": fingerprint(recipe)[:12],
        "created": utc_now(),
        "recipe_fingerprint": fingerprint(recipe),
        "imported_from": str(source),
        "versions": versions(),
        "commit": commit(),
        "num_parameters": num_parameters(recipe.model),
        "tokens": roles.to_json(),
    }
