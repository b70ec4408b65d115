"""Which documents training never sees: decided by each document alone, never by the others."""

from typing import Literal

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


def share_of(digest: bytes) -> float:
    """The document's place in [0, 1), spread evenly: the first 64 bits of its SHA-256."""
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(digest: bytes, *, held_out_fraction: float) -> Split:
    """The digest is of the text, so copies of one text never lie on both sides."""
    return "held_out" if share_of(digest) < held_out_fraction else "train"
