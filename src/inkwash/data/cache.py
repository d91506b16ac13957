"""Latents and tokens computed once per data set and encoder.

The key of a cache holds everything that its values depend on: the data's fingerprint, the encoder's hash, the image size and transform,
or the captions themselves, but not how many processes compute it. Another key means another folder, so a changed encoder can never read old
latents. Values are rows of a memory-mapped array; only the rows of a batch are in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inkwash.data.arrays import Progress, cached_array
from inkwash.data.item import fingerprint_of
from inkwash.data.loader import Loader
from inkwash.errors import UsageError


class LatentCache:
    """encode(images) for every distinct item of a loader, and for its mirror image when the loader flips.

    encode: uint8 (B, 3, H, W) -> (B, *shape), any float type; it may stack mean and log-variance. encoder: a hash of its weights.
    """

    def __init__(
        self,
        loader: Loader,
        folder: Path,
        encode: Callable[[Tensor], Tensor],
        *,
        encoder: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        chunk: int = 32,
        progress: Progress | None = None,
    ) -> None:
        if loader.square is None:
            raise UsageError("cache_buckets", "latents are cached for images of one size only; train without aspect buckets or without the cache")
        self._count = len(loader.base)
        key = fingerprint_of("latents", [loader.base.fingerprint, loader.square, loader.mode, loader.flip, encoder, list(shape), dtype])

        def compute(rows: range) -> np.ndarray:
            images = torch.stack([self._image(loader, row) for row in rows])            # (B, 3, H, W)
            return encode(images).detach().float().cpu().numpy().astype(dtype)          # (B, *shape)

        rows = self._count * (2 if loader.flip else 1)
        self.rows = cached_array(Path(folder) / f"latents-{key}", rows, shape, dtype, compute, chunk=chunk, progress=progress)

    def _image(self, loader: Loader, row: int) -> Tensor:
        image = loader.image(row % self._count)
        return image.flip(-1) if row >= self._count else image

    def take(self, index: Tensor, flipped: Tensor | None = None) -> Tensor:
        """The latents of a batch, float32 (B, *shape); index and flipped as in `Batch`."""
        row = index.numpy() if flipped is None else (index + flipped.long() * self._count).numpy()
        return torch.from_numpy(np.array(self.rows[row], dtype=np.float32))


class Captioned(Protocol):
    """What has captions by number, such as a Source or all forms of its captions."""

    def __len__(self) -> int: ...

    def caption(self, index: int) -> str: ...


class TokenCache:
    """encode(captions) for every distinct item: token numbers, or text features.

    encode: list of B captions -> array (B, *shape). encoder: a hash of the tokenizer or text encoder.
    """

    def __init__(
        self,
        source: Captioned,
        folder: Path,
        encode: Callable[[list[str]], np.ndarray],
        *,
        encoder: str,
        shape: tuple[int, ...],
        dtype: str = "int32",
        chunk: int = 256,
        progress: Progress | None = None,
    ) -> None:
        digest = hashlib.sha256()
        for index in range(len(source)):
            digest.update(source.caption(index).encode() + b"\0")
        key = fingerprint_of("tokens", [digest.hexdigest(), encoder, list(shape), dtype])

        def compute(rows: range) -> np.ndarray:
            return np.asarray(encode([source.caption(index) for index in rows])).astype(dtype)

        self.rows = cached_array(Path(folder) / f"tokens-{key}", len(source), shape, dtype, compute, chunk=chunk, progress=progress)

    def take(self, index: Tensor) -> Tensor:
        """The rows of a batch, (B, *shape), in the stored type."""
        return torch.from_numpy(np.array(self.rows[index.numpy()]))
