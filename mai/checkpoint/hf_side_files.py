"""What stands beside the weights in a Hugging Face folder, kept below `hf/` of an imported run and of those that start
from it, for the way back."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mai.run_folder import RunFolder

FOLDER = "hf"
CONFIG = f"{FOLDER}/config.json"
CAME_AS = f"{FOLDER}/dtypes.json"
"""In which dtype each tensor came."""

COPIED = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "tiktoken.model", "tekken.json"),
    *("chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"),
)
"""As they are; tokenizer.json stands where every run has it, and config.json may change with the model."""


_READ = ("config.json", "tokenizer.json")
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def passed_over(source: Path) -> list[str]:
    """What of a Hugging Face folder is neither read nor goes along: code, the card of the model as it was."""
    names = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    return [name for name in names if name not in (*_READ, *COPIED) and not name.endswith(_WEIGHTS)]


def take_side_files(source: Path, run: RunFolder) -> None:
    """Keep those of a Hugging Face folder."""
    folder = run.path / FOLDER
    folder.mkdir(mode=0o750, exist_ok=True)
    for name in ("config.json", *COPIED):
        _copy(source / name, folder / name)
    _copy(source / "tokenizer.json", run.tokenizer)


def keep_side_files(origin: RunFolder, run: RunFolder) -> None:
    """Keep those of the run that this one starts from; nothing where that was not imported."""
    if not (origin.path / FOLDER).is_dir():
        return
    (run.path / FOLDER).mkdir(mode=0o750, exist_ok=True)
    for path in sorted((origin.path / FOLDER).iterdir()):
        _copy(path, run.path / FOLDER / path.name)


def give_side_files(run: RunFolder, folder: Path) -> None:
    """Into a folder that is exported."""
    for name in COPIED:
        _copy(run.path / FOLDER / name, folder / name)
    _copy(run.tokenizer, folder / "tokenizer.json")


def exported_config(config: Mapping[str, Any], *, sequence_length: int) -> dict[str, Any]:
    """The config.json that came, of weights that are as this run leaves them: not quantised, and meant for the longest
    sequences that the model was trained with, here or before."""
    longest = config.get("max_position_embeddings")
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    if isinstance(longest, int) and longest < sequence_length:
        kept["max_position_embeddings"] = sequence_length
    return kept


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
