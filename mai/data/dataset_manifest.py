"""dataset.json: what a prepared folder holds, for which recipe. Written last, so its presence is the commit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mai.data.split import SPLITS, Split
from mai.errors import DataError
from mai.recipe.recipe import Recipe
from mai.run_folder import origin_of

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"
TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The fields of the recipe that decide what is prepared (the sequence length does not)."""

    documents: tuple[str, ...]
    tokenizer: str | None
    vocab_size: int
    held_out_fraction: float
    document_end: str | None = None
    beginning: str | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls(
            documents=recipe.data.documents,
            tokenizer=recipe.data.tokenizer or inherited_tokenizer(recipe),
            vocab_size=recipe.model.vocab_size,
            held_out_fraction=recipe.data.held_out_fraction,
            document_end=recipe.data.tokens.document_end,
            beginning=recipe.data.tokens.beginning,
        )


def inherited_tokenizer(recipe: Recipe) -> str | None:
    """That of the run whose weights this one begins with: they know its tokens and no others. None where there is no
    such run, or it has none."""
    if recipe.checkpoint.start_from is None:
        return None
    path = origin_of(recipe.checkpoint.start_from).run.tokenizer
    return str(path) if path.is_file() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRecord:
    num_documents: int
    num_tokens: int
    """Ends of documents included."""
    text_bytes: int
    """UTF-8 bytes that the tokens stand for; ends of documents count none."""
    shards: tuple[str, ...]
    """Files of the token stream, in order."""
    offsets: str
    """File of int64: the token at which each document begins, and the end of the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetManifest:
    settings: Settings
    corpus_sha256: str
    """Over the hashes of the documents' texts, in order: paths and times do not enter."""
    num_ids: int
    """Every token is smaller."""
    end_token: int
    """Behind every document."""
    splits: Mapping[Split, SplitRecord]
    rejected: Mapping[str, int]
    """Documents left out, by reason."""
    num_altered: int
    """Documents that the tokenizer does not reproduce byte for byte (it normalises)."""
    files: Mapping[str, FileRecord]
    beginning_token: int | None = None
    """Before every document."""

    @property
    def token_type(self) -> np.dtype[Any]:
        return token_type_of(self.num_ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over all of the above: equal for equal data, whoever prepared it."""
        return _fingerprint(self._content())

    def _content(self) -> dict[str, Any]:
        """Without what is not said and was not known when older folders were prepared: theirs stay what they are."""
        content = asdict(self)
        for values, names in ((content, ("beginning_token",)), (content["settings"], ("document_end", "beginning"))):
            for name in names:
                if values[name] is None:
                    del values[name]
        return content

    def to_json(self) -> bytes:
        content = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint, **self._content()}
        return (json.dumps(content, indent=1) + "\n").encode()


def token_type_of(num_ids: int) -> np.dtype[Any]:
    """The smallest type of a token in a shard, little endian."""
    return np.dtype("<u2") if num_ids <= 2**16 else np.dtype("<u4")


def read_manifest(folder: Path) -> DatasetManifest:
    """What the folder holds; DataError when it is not prepared or dataset.json is damaged."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        version, fingerprint = content.pop("format_version"), content.pop("fingerprint")
    except FileNotFoundError as error:
        raise DataError(f"data.folder={folder} holds no prepared dataset; run mai prepare first") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"{path} is damaged or not ours ({error}); run mai prepare with --again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; mend it, or choose another data.folder") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{path} is of format {version}, this mai reads {FORMAT_VERSION}; run mai prepare with --again")
    if fingerprint != _fingerprint(content):
        raise DataError(f"{path} was changed after it was written; run mai prepare with --again")
    return _from_dict(content)


def differing_fields(ours: Settings, theirs: Settings) -> list[str]:
    """What keeps a prepared folder from serving a recipe, one line a field, in the recipe's own key names."""
    return [
        f"{key}: prepared for {was!r}, the recipe says {now!r}"
        for key, was, now in (
            ("data.documents", ours.documents, theirs.documents),
            ("data.tokenizer", ours.tokenizer, theirs.tokenizer),
            ("model.vocab_size", ours.vocab_size, theirs.vocab_size),
            ("data.held_out_fraction", ours.held_out_fraction, theirs.held_out_fraction),
            ("data.tokens.document_end", ours.document_end, theirs.document_end),
            ("data.tokens.beginning", ours.beginning, theirs.beginning),
        )
        if was != now
    ]


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _from_dict(content: dict[str, Any]) -> DatasetManifest:
    """Its fingerprint matched, so the content is as we wrote it."""
    settings = content.pop("settings")
    splits, files = content.pop("splits"), content.pop("files")
    return DatasetManifest(
        settings=Settings(**settings | {"documents": tuple(settings["documents"])}),
        splits={name: SplitRecord(**splits[name] | {"shards": tuple(splits[name]["shards"])}) for name in SPLITS},
        files={name: FileRecord(**record) for name, record in files.items()},
        **content,
    )
