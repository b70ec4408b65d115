"""One row of the tables of bad recipes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What stands in a recipe's file, then on the command line, and every message that must come back."""

    edit: str = "base"
    overrides: str = ""
    ranks: int | None = None
    messages: tuple[str, ...]
