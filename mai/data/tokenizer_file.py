"""A Hugging Face tokenizer.json as a file: whether two give the same tokens, without the library that reads them."""

import difflib
import json
from pathlib import Path
from typing import Any

from mai.errors import DataError


def is_same_tokenizer(path: Path, other: Path) -> bool:
    """Whether both give every text the same tokens; what they add, pad or cut off, nobody here lets them.

    Raises DataError where one cannot be read."""
    return bool(_what_encodes(path) == _what_encodes(other))


def _what_encodes(path: Path) -> Any:
    if not path.is_file():
        raise DataError(missing(path))
    try:
        said = json.loads(path.read_bytes())
        return {key: value for key, value in said.items() if key not in _WHAT_IS_ADDED}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a Hugging Face tokenizer.json ({error}); export it again") from error


_WHAT_IS_ADDED = ("truncation", "padding", "post_processor", "decoder", "version")


def missing(path: Path) -> str:
    """Why there is no tokenizer at this path, and what to do."""
    if path.is_dir():
        return f"data.tokenizer={path} is a folder; name the file, {path / 'tokenizer.json'}"
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
    hint = f"did you mean {path.parent / near[0]}?" if near else "leave it out to train one on the documents"
    return f"data.tokenizer={path}: there is no such file (a Hugging Face tokenizer.json); {hint}"
