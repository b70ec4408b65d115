"""Which text the model reads, and how it becomes sequences of tokens."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class DataConfig:
    documents: tuple[str, ...] = Field(min_length=1)
    """Folders or files of text (`.txt`, `.md`, `.py`, ... one document a file) or `.jsonl` (one document a line,
    under "text"); `python:stdlib` is the standard library's own sources."""

    folder: str = Field(min_length=1)
    """Where the prepared token shards lie, relative to the working directory."""

    sequence_length: int = Field(gt=1)
    """Tokens that the model sees at once."""

    tokenizer: str | None = None
    """A Hugging Face `tokenizer.json`; None trains a byte-level BPE of `model.vocab_size` on the documents."""

    held_out_fraction: float = Field(default=0.02, gt=0, lt=1)
    """Share of the documents that training never sees."""
