"""Features: images as vectors in which distances mean something, so that sets of images can be compared.

Every distance between sets (Frechet, kernel, precision and recall, nearest neighbours) is a distance in the space of one extractor, and two
numbers can be compared only when extractor, weights and resizing are the same. So an extractor carries its name and the SHA-256 of its
weights, and resizes by one stated rule: to a square, bicubic with antialiasing in floating point, clamped to 0..255, never rounded to
integers (Parmar et al. 2021, arXiv 2104.11222, on why that matters).

Networks see batches of one fixed size, filled up by repetition. So the bits of a row do not depend on how a set was split into batches,
and runs over parts of a set agree with a run over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inkwash.errors import UsageError


@runtime_checkable
class Extractor(Protocol):
    """Images to vectors.

    name: what to print. hash: SHA-256 over names, shapes, dtypes and bytes of the weights. dim: D. unit: whether the vectors have length 1.
    """

    name: str
    hash: str
    dim: int
    unit: bool

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) of any size -> float32 (B, D) on the CPU. Raises UsageError `bad_images`."""
        ...


@runtime_checkable
class TextExtractor(Extractor, Protocol):
    """An extractor that maps text into the same space, as CLIP does: the cosine of an image and a text says how well they fit."""

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> float32 (B, D) on the CPU, of length 1."""
        ...


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D) of all images, in order; batches are uint8 (B, 3, H, W) and may differ in size. Raises UsageError `bad_images` for none."""
    parts = [extractor(batch) for batch in batches]
    if not parts:
        raise UsageError("bad_images", "there are no images to extract features from; name a folder or file that has some")
    return torch.cat(parts)                                                             # (N, D)
