"""One document: its text, or the counted reason why it is left out."""

import hashlib
from dataclasses import dataclass
from enum import Enum


class Rejection(str, Enum):
    """Why a document is left out."""

    EMPTY = "empty"
    NOT_UTF8 = "not_utf8"
    NUL_BYTES = "nul_bytes"
    BAD_JSON = "bad_json"
    NO_TEXT = "no_text"


@dataclass(frozen=True, slots=True)
class Document:
    """The UTF-8 bytes of one document, where they were found, and why they are left out, if they are."""

    where: str
    content: bytes
    rejection: Rejection | None

    @property
    def digest(self) -> bytes:
        """What a document is known by: equal texts are one document, wherever they lie."""
        return hashlib.sha256(self.content).digest()


def judge(where: str, content: bytes) -> Document:
    """Keep these bytes as a document, or say why not."""
    return Document(where, content, _rejection(content))


def _rejection(content: bytes) -> Rejection | None:
    if not content.strip():
        return Rejection.EMPTY
    if b"\0" in content:
        return Rejection.NUL_BYTES
    try:
        content.decode()
    except UnicodeDecodeError:
        return Rejection.NOT_UTF8
    return None
