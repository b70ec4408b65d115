"""Rules of the vocabulary and of lists of names."""

import math
from collections.abc import Iterator

from mai.recipe.breach import Breach, listed
from mai.recipe.recipe import Recipe
from mai.recipe.rules.breach_wording import breach

BYTE_LEVEL_TOKENS = 257
"""The smallest byte-level vocabulary: 256 bytes and the end of a document."""


def trained_vocabulary_holds_every_byte(recipe: Recipe) -> Iterator[Breach]:
    if recipe.data.tokenizer is None and recipe.model.vocab_size < BYTE_LEVEL_TOKENS:
        tensor = recipe.parallel.tensor
        least = math.ceil(BYTE_LEVEL_TOKENS / tensor) * tensor
        rule = f"a byte-level tokenizer needs 256 bytes and the end of a document; use {least} or more"
        yield breach(recipe, rule, "model.vocab_size", "data.tokenizer")


def lists_have_no_empty_or_double_entries(recipe: Recipe) -> Iterator[Breach]:
    lists: dict[str, tuple[str, ...]] = {
        "data.documents": recipe.data.documents,
        "optimizer.groups": recipe.optimizer.groups,
        "parallel.recompute": recipe.parallel.recompute,
        "observe.sinks": recipe.observe.sinks,
    }
    for path, items in lists.items():
        if not all(items):
            yield breach(recipe, "an entry is empty; take it out", path)
        double = sorted({item for item in items if items.count(item) > 1})
        if double:
            yield breach(recipe, f"{listed(double, joined_by='and')} is there more than once; keep one", path)
