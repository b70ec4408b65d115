"""A run folder made of a Hugging Face folder, and the other way."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mai.checkpoint import hf_export, hf_import, store
from mai.checkpoint.hf_fit import check_fit, family_of_folder, model_of_folder
from mai.checkpoint.hf_folder import open_hf_folder
from mai.data.progress import byte_progress
from mai.data.tokenizer import find_end_token, read_tokenizer
from mai.errors import DataError, UsageError
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
from mai.run_folder import RunFolder, utc_now
from mai.train import story

_MOST_SEQUENCE = 1024


@dataclass(frozen=True, slots=True)
class ImportedRun:
    recipe: str
    """File to train from: mai train RECIPE --run ANOTHER."""
    parameters: int
    tensors: int
    dequantised: int
    files: int


def import_run(source: Path, run: RunFolder, overrides: Sequence[str], *, progress: bool) -> ImportedRun:
    """Raises CheckpointError with all that does not fit, and RecipeError for overrides."""
    if store.committed_steps(run.checkpoints):
        raise UsageError(f"{run.path} holds a run already; name a folder that does not")
    folder = open_hf_folder(source)
    as_it_is = model_of_folder(folder)
    rules = list(family_of_folder(folder).rules(as_it_is))
    check_fit(folder, as_it_is, rules)
    recipe = override.apply(_recipe(as_it_is, folder.config, run), overrides)
    _check_same_model(as_it_is, recipe.model)
    end_token = _end_token(source, folder.config)
    run.create()
    with byte_progress("import", hf_export.num_bytes(recipe), shown=progress) as advance:
        done = hf_import.import_hf(folder, rules, recipe, run, advance=advance)
    run.write_json("recipe.json", to_dict(recipe))
    run.write_json("run.json", _description(source, recipe, end_token))
    return ImportedRun(
        recipe=str(run.path / "recipe.json"),
        parameters=num_parameters(recipe.model),
        tensors=done.num_tensors,
        dequantised=done.num_quantised,
        files=done.shard_files,
    )


def export_run(recipe: Recipe, run: RunFolder, out: Path, *, step: int | None, progress: bool) -> dict[str, Any]:
    with byte_progress("export", hf_export.num_bytes(recipe), shown=progress) as advance:
        return asdict(hf_export.export_hf(recipe, run, out, step=step, advance=advance))


def _recipe(model: ModelConfig, config: Any, run: RunFolder) -> Recipe:
    """What `mai train` goes on with: gentle steps on Python's own sources until another text is named."""
    length = min(_MOST_SEQUENCE, int(config.get("max_position_embeddings") or _MOST_SEQUENCE))
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
        ),
        optimizer=OptimizerConfig(learning_rate=1e-5, schedule=Cosine(warmup_steps=10)),
        precision=PrecisionConfig(compute="fp32" if _is_fp32(config) else "bf16"),
        train=TrainConfig(steps=100, batch_tokens=8 * length),
        evaluate=EvaluateConfig(sequences=8),
        checkpoint=CheckpointConfig(start_from=str(folder.path)),
    )


def _is_fp32(config: Any) -> bool:
    return "float32" in (config.get("dtype"), config.get("torch_dtype"))


def _check_same_model(model: ModelConfig, changed: ModelConfig) -> None:
    """Rows of the vocabulary may be added, so that tensor ranks divide it; nothing else of the model may change."""
    if replace(changed, vocab_size=model.vocab_size) != model or changed.vocab_size < model.vocab_size:
        raise UsageError(
            "an import takes the model as it is; of its fields only model.vocab_size may be changed, to "
            f"{model.vocab_size} or more (the rows that are added are zeros)"
        )


def _end_token(source: Path, config: Any) -> int:
    """What config.json names; else what the tokenizer ends documents with."""
    if (token := hf_import.end_token_of(config)) is not None:
        return token
    path = source / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{source}: config.json names no eos_token_id, and there is no tokenizer.json that has one")
    return find_end_token(read_tokenizer(path), path)


def _description(source: Path, recipe: Recipe, end_token: int) -> dict[str, Any]:
    return {
        "run_id": fingerprint(recipe)[:12],
        "created": utc_now(),
        "recipe_fingerprint": fingerprint(recipe),
        "imported_from": str(source),
        "versions": story.versions(),
        "commit": story.commit(),
        "num_parameters": num_parameters(recipe.model),
        "end_token": end_token,
    }
