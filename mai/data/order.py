"""The order in which sequences are read: a pure function of (seed, position), with no state and no memory.

position -> epoch = position // n, and within the epoch a pseudo-random permutation of [0, n) that is computed entry
by entry, so resume is one integer and the order does not know how many ranks read it.

The permutation is a Feistel network (Luby and Rackoff, 1988) on the smallest even number of bits that holds n, with
cycle walking down to [0, n) (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002); its round function is
the SplitMix64 finaliser (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NUM_ROUNDS = 6
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_ROUND_KEYS = [np.uint64(number * _GOLDEN_GAMMA % 2**64) for number in range(_NUM_ROUNDS)]


def shuffled(positions: Sequence[int], num_sequences: int, *, seed: int) -> NDArray[np.int64]:
    """The sequence in [0, num_sequences) that is read at each position; each epoch reads every sequence once."""
    position = np.asarray(positions, dtype=np.int64)
    epoch, place = position // num_sequences, position % num_sequences
    epoch_key = _mix(_mix(np.full(position.shape, seed, np.uint64)) + epoch.astype(np.uint64))
    half_bits = max(1, ((num_sequences - 1).bit_length() + 1) // 2)

    value = _permute(place.astype(np.uint64), epoch_key, half_bits)
    while (outside := value >= num_sequences).any():
        # A permutation's cycle comes back to where it began, which is inside, so this walk ends.
        value[outside] = _permute(value[outside], epoch_key[outside], half_bits)
    return value.astype(np.int64)


def _permute(value: NDArray[np.uint64], key: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    mask = np.uint64((1 << half_bits) - 1)
    left, right = value >> np.uint64(half_bits), value & mask
    for round_key in _ROUND_KEYS:
        left, right = right, left ^ (_mix(_mix(right) ^ (key + round_key)) & mask)
    return (left << np.uint64(half_bits)) | right


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(_GOLDEN_GAMMA)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
