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
from pathlib import Path
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


def load_extractor(text: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor that `text` names.

    "ink": the one inside this package. "clip:FOLDER": image and text towers of a contrastive run of this package (its output folder; a
    text-to-image model carries only the text half and is refused), or a CLIP model as transformers stores it. A path: a finished run of
    the recipe `features`, an Inception v3 in a safetensors file (or in a folder with one such file), or a CLIP folder of transformers.

    Raises UsageError `unknown_extractor`, `missing_extra`, `bad_device`; CheckpointError `arch_mismatch` with the first differences,
    and those of `inkwash.io`.
    """
    from inkwash.device import parse_device
    from inkwash.evaluate.extractors import clip, inception, network

    where = parse_device(device)
    if text == "ink":
        return network.load_ink(network.embedded(), "ink", where)
    if text.startswith("clip:"):
        return clip.load_clip(Path(text.removeprefix("clip:")), where)
    path = Path(text)
    if not path.exists():
        raise UsageError("unknown_extractor", f"no extractor {text[:80]!r}; give ink, clip:FOLDER, or the path of a safetensors file or of a folder")
    for folder in (path, path / "model"):
        if (folder / network.PART / "config.json").is_file():
            return network.load_ink(folder, path.name, where)
    if clip.is_clip(path):
        return clip.load_clip(path, where)
    return inception.load_inception(path, where)


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D) of all images, in order; batches are uint8 (B, 3, H, W) and may differ in size. Raises UsageError `bad_images` for none."""
    parts = [extractor(batch) for batch in batches]
    if not parts:
        raise UsageError("bad_images", "there are no images to extract features from; name a folder or file that has some")
    return torch.cat(parts)                                                             # (N, D)
