"""Which text the model reads, and how it becomes sequences of tokens."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class TokenRoles:
    """Which special token of the tokenizer plays which part, by its text: the same in training, generation, export and
    evaluation. None takes what the tokenizer has for it; an empty text says that nothing plays it."""

    document_end: str | None = Field(default=None, min_length=1)
    """Ends every document, and what the model says; None for the first of the usual ones that the tokenizer has, such
    as <|endoftext|>, <|end_of_text|> or </s>."""

    message_end: str | None = None
    """Ends a message, such as <|im_end|> or <|eot_id|>, and what the model says; None for no such token."""

    beginning: str | None = None
    """Begins every document and every prompt; None for the one that the tokenizer itself puts first, if it does."""

    padding: str | None = None
    """Fills up what an export is used for; nothing here is filled up. None for no such token."""


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

    tokens: TokenRoles = Field(default_factory=TokenRoles)

    held_out_fraction: float = Field(default=0.02, gt=0, lt=1)
    """Share of the documents that training never sees."""
