"""Rules between fields, and against a number of ranks: one small function each, and every breach is found at once."""

from mai.recipe.rules.all_rules import breaches, check, violations
from mai.recipe.rules.rank_rules import ranks_within, smallest_world, world_breaches
from mai.recipe.rules.text_rules import BYTE_LEVEL_TOKENS

__all__ = ["BYTE_LEVEL_TOKENS", "breaches", "check", "ranks_within", "smallest_world", "violations", "world_breaches"]
