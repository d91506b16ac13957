"""Noise as a function of (seed, image, stage, purpose), never of what was drawn before or beside it.

The four name a stream: blake2b of their text gives its key. `normal` and `uniform` expand the key by SHAKE-128 into 64-bit words and map
them in float64 (Box and Muller, 1958: sqrt(-2 ln u) cos(2 pi v)), so that they keep all bits of the key and do not depend on the
processor's vector width or on torch's version. `generator` serves everything else (permutations, integers); torch's CPU generator keeps
only the low 32 bits of a seed, which is enough to shuffle and too little to tell many images apart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _key(seed: int, image: int, stage: int, purpose: str) -> bytes:
    return hashlib.blake2b(f"{int(seed)}/{int(image)}/{int(stage)}/{purpose}".encode(), digest_size=32, person=b"inkwash noise").digest()


def seed64(seed: int, image: int, stage: int, purpose: str) -> int:
    """A 63-bit number of the stream (seed, image, stage, purpose): fits a signed 64-bit integer, never negative."""
    return int.from_bytes(_key(seed, image, stage, purpose)[:8], "little") >> 1


def generator(seed: int, image: int, stage: int, purpose: str) -> torch.Generator:
    """A fresh CPU generator of the stream, for what `normal` and `uniform` do not draw."""
    return torch.Generator("cpu").manual_seed(seed64(seed, image, stage, purpose))


def _uniform64(count: int, key: bytes) -> Tensor:
    """`count` float64 numbers in the open interval (0, 1): the middles of 2^52 equal cells."""
    if count == 0:
        return torch.empty(0, dtype=torch.float64)
    words = torch.frombuffer(bytearray(hashlib.shake_128(key).digest(8 * count)), dtype=torch.int64)  # (count,)
    return ((words & (2**52 - 1)).double() + 0.5) * 2.0**-52


def uniform(shape: Sequence[int], seed: int, image: int, stage: int, purpose: str) -> Tensor:
    """Float64 numbers of `shape`, uniform in the open interval (0, 1)."""
    return _uniform64(math.prod(shape), _key(seed, image, stage, purpose)).reshape(tuple(shape))


def normal(shape: Sequence[int], seed: int, image: int, stage: int, purpose: str) -> Tensor:
    """Float32 numbers of `shape` from N(0, 1)."""
    u, v = _uniform64(2 * math.prod(shape), _key(seed, image, stage, purpose)).reshape(2, *shape)
    z: Tensor = (-2.0 * u.log()).sqrt() * (2.0 * math.pi * v).cos()
    return z.float()
