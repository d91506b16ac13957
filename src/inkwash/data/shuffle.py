"""A shuffle without a list: the permutation of an epoch, evaluated at any position.

A Feistel network over 2k bits with 2^(2k) >= N is a bijection whatever its round function; positions that land outside [0, N) walk on
until they fall inside, which keeps it a bijection of [0, N) (cycle walking: Black and Rogaway, 2002). The rounds mix with SplitMix64
(Steele, Lea and Flood, 2014). Memory and start-up cost nothing at any N, and resuming needs no state.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 8


def mix(*words: int | np.ndarray) -> np.ndarray:
    """64 well-mixed bits of the words, elementwise: (...,) uint64."""
    with np.errstate(over="ignore"):
        state = np.zeros((), dtype=np.uint64)
        for word in words:
            value = word.astype(np.uint64) if isinstance(word, np.ndarray) else np.uint64(word & 0xFFFFFFFFFFFFFFFF)
            state = (state ^ value) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def permute(position: np.ndarray, count: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """pi(seed, epoch)(position) with pi a permutation of 0..count-1; position and epoch are int64 of one shape."""
    half = max(1, ((max(count - 1, 1)).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = [mix(seed, epoch, turn) for turn in range(_ROUNDS)]
    value = position.astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value >> np.uint64(half), value & low
        for key in keys:
            left, right = right, left ^ (mix(key, right) & low)
        value = np.where(outside, (left << np.uint64(half)) | right, value)
        outside = value >= count
    return value.astype(np.int64)


def coin(seed: int, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
    """A fair coin for each (seed, epoch, index): bool. Used for horizontal flips."""
    return (mix(seed, epoch, index, 0xF11B) & np.uint64(1)).astype(bool)
