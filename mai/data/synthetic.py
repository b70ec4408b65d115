"""Endless learnable tokens, for what needs a run and no corpus: certificates, tests, benchmarks.

A made-up language of V tokens, the same for every seed. Tokens have a rank, and a fresh token comes by Zipf's law: one
over its rank. Ranks stand in rings of eight; three times in four, the next token is the next in the ring, else a fresh
one. So a model learns first which tokens are common, then which follows which, down to the entropy of the fresh ones.

    (seed, position) --Philox--> a word for each token --> fresh? and of which rank --> rank + steps since --> token

No token waits for the one before, so a batch is a few expressions over all its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RING = 8
_FRESH_ONE_IN = 4
# Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) draws anew for each pair of words;
# this pair is no (seed, position).
_LANGUAGE_KEY = (2**64 - 1, 2**64 - 1)


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticSequences:
    """What position p reads depends on the language, the seed and p alone."""

    token_of_rank: NDArray[np.int64]
    cumulative_of_rank: NDArray[np.float64]
    """Chance that a fresh token has this rank or a lower one; ends with 1."""
    sequence_length: int
    seed: int

    def at(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """[len(positions), sequence_length + 1] tokens."""
        words = np.stack([_random_words((self.seed, position), self.sequence_length + 1) for position in positions])
        # The lowest bits of a word say whether its token is fresh, the 53 highest which rank it takes then.
        is_fresh = words % _FRESH_ONE_IN == 0
        is_fresh[:, 0] = True
        chances = (words[is_fresh] >> np.uint64(11)) * 2.0**-53
        fresh_rank = np.searchsorted(self.cumulative_of_rank, chances, side="right")
        fresh_column = is_fresh.nonzero()[1]

        latest = np.cumsum(is_fresh).reshape(is_fresh.shape) - 1
        rank, steps = fresh_rank[latest], np.arange(is_fresh.shape[1]) - fresh_column[latest]
        ring = rank - rank % _RING
        ring_size = np.minimum(_RING, len(self.token_of_rank) - ring)
        tokens: NDArray[np.int64] = self.token_of_rank[ring + (rank % _RING + steps) % ring_size]
        return tokens


def synthetic_sequences(vocab_size: int, sequence_length: int, seed: int) -> SyntheticSequences:
    """Sequences of the language of this many tokens; every position has one."""
    cumulative = np.cumsum(1 / np.arange(1, vocab_size + 1))
    return SyntheticSequences(
        token_of_rank=np.argsort(_random_words(_LANGUAGE_KEY, vocab_size), kind="stable"),
        cumulative_of_rank=cumulative / cumulative[-1],
        sequence_length=sequence_length,
        seed=seed,
    )


def _random_words(key: tuple[int, int], count: int) -> NDArray[np.uint64]:
    return np.random.Philox(key=np.array(key, np.uint64)).random_raw(count)
