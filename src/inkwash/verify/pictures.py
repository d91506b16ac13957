"""Clean samples for checks that need some: drawn scenes, which need nothing from outside, or the user's own pictures with their captions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from inkwash.data.scenes.source import draw
from inkwash.data.source import open_source
from inkwash.data.transform import decode, fit
from inkwash.errors import UsageError

SEED = 2**40                                               # a row of scenes that no recipe trains on
LEAST = 8


class Pictures(NamedTuple):
    """uint8 pictures (N, 3, H, W) with captions; `own` when a user gave them, as a fair sample of what the model was trained on."""

    pixels: Tensor
    captions: tuple[str, ...]
    own: bool

    def first(self, count: int) -> Pictures:
        """The first `count`."""
        return Pictures(self.pixels[:count], self.captions[:count], self.own)


def drawn(count: int, size: tuple[int, int]) -> Pictures:
    """`count` scenes of `size` (width, height)."""
    width, height = size
    scenes = [draw(SEED, number, max(16, min(1024, max(size)))) for number in range(count)]
    return Pictures(torch.stack([fit(Image.fromarray(scene.pixels), (height, width)) for scene in scenes]),
                    tuple(scene.caption for scene in scenes), False)


def read(path: str | Path, count: int, size: tuple[int, int]) -> Pictures:
    """At most `count` pictures of a data path, evenly over it. Raises DataError, and UsageError `too_few_samples` below 8."""
    source = open_source(path)
    if len(source) < LEAST:
        raise UsageError("too_few_samples", f'"{path}" has {len(source)} pictures; a check needs at least {LEAST}, and 64 are better')
    count = min(count, len(source))
    places = [i * len(source) // count for i in range(count)]
    items = [source[i] for i in places]
    return Pictures(torch.stack([fit(decode(item), (size[1], size[0])) for item in items]), tuple(item.caption for item in items), True)
