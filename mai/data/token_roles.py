"""Which token plays which part: what the recipe says, and what a tokenizer has for the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mai.data.tokenizer import END_TOKENS, read_tokenizer, special_token, special_tokens, token_texts
from mai.errors import DataError
from mai.recipe.data import TokenRoles


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Ids; None where nothing plays the part."""

    document_end: int
    message_end: int | None = None
    beginning: int | None = None
    padding: int | None = None

    @property
    def ends(self) -> frozenset[int]:
        """What ends that which a model says."""
        return frozenset({self.document_end, self.message_end} - {None})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, int]:
        return {name: token for name, token in asdict(self).items() if token is not None}

    @classmethod
    def of_run(cls, description: Mapping[str, Any]) -> "Roles":
        """As run.json has them; older ones know the end of a document alone."""
        return cls(**(description.get("tokens") or {"document_end": description["end_token"]}))


def find_roles(tokenizer: Tokenizer, wanted: TokenRoles, path: Path) -> Roles:
    """DataError where the tokenizer in `path` has no such token, or one that any text may spell."""
    beginning = _named(tokenizer, "beginning", wanted.beginning, path)
    return Roles(
        document_end=_document_end(tokenizer, wanted, path),
        message_end=_named(tokenizer, "message_end", wanted.message_end, path),
        beginning=_beginning(tokenizer) if wanted.beginning is None else beginning,
        padding=_named(tokenizer, "padding", wanted.padding, path),
    )


def roles_that_are_said(said: Mapping[str, Sequence[int]], path: Path) -> tuple[TokenRoles, Roles, list[str]]:
    """What a recipe says of a model that comes with the tokenizer in `path`; the ids; and what is to be told.

    `said`: ids that its configs have for eos_token_id (several: what ends its messages too) and pad_token_id. Raises
    DataError, of the tokenizer too."""
    tokenizer = read_tokenizer(path)
    special = {token: added.content for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    ends = [special[token] for token in said["eos_token_id"] if token in special]
    document_end = next((text for text in (*END_TOKENS, *ends) if text in special.values()), None)
    roles = TokenRoles(
        document_end=document_end,
        message_end=next((text for text in ends if text != document_end), None),
        padding=next((special[token] for token in said["pad_token_id"] if token in special), None),
    )
    told = [
        f"{key}={token} is no special token of tokenizer.json, and plays no part here"
        for key in ("eos_token_id", "pad_token_id")
        for token in said[key]
        if token not in special
    ]
    return roles, find_roles(tokenizer, roles, path), [*told, *_about_training(tokenizer, path)]


def _about_training(tokenizer: Tokenizer, path: Path) -> list[str]:
    """Text can be prepared with byte-level tokenizers alone."""
    try:
        token_texts(tokenizer, path)
    except DataError as error:
        return [f"it can speak, and cannot be trained on: {error}"]
    return []


def _named(tokenizer: Tokenizer, role: str, content: str | None, path: Path) -> int | None:
    if not content:
        return None
    token = special_token(tokenizer, content, path)
    if token is None:
        raise DataError(
            f"data.tokens.{role}={content}: {path} has no such token; its special tokens are "
            f"{special_tokens(tokenizer)}"
        )
    return token


def _document_end(tokenizer: Tokenizer, wanted: TokenRoles, path: Path) -> int:
    if (token := _named(tokenizer, "document_end", wanted.document_end, path)) is not None:
        return token
    for content in END_TOKENS:
        if (token := special_token(tokenizer, content, path)) is not None:
            return token
    raise DataError(
        f"data.tokenizer={path} has no end-of-document token: none of {' '.join(END_TOKENS)}; its special tokens are "
        f"{special_tokens(tokenizer)}; say which with data.tokens.document_end=TOKEN"
    )


def _beginning(tokenizer: Tokenizer) -> int | None:
    """What the tokenizer itself puts before a text."""
    plain, added = (tokenizer.encode("a", add_special_tokens=adds).ids for adds in (False, True))
    return added[0] if added[:1] != plain[:1] else None
