"""Does a picture of a garment show what its prompt asks for? Its kind is named by a classifier, its colour by a rule.

The classifier is a linear map of the features of `ink`, fitted to training photos alone. The rule reads pixels: of the middle of the picture
the median of each coordinate in CIELAB (CIE 1976, D65), chroma drawn in to at most `CHROMA`, lightness weighed by `LIGHTNESS`, then the
nearest of sixteen fixed points. The points were fitted to the colour words of the training photos, which are noisy themselves, and to sixteen
pure colours; they are listed here, and nothing is learned afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.evaluate.extractors.network import NetworkExtractor, check_images, embedded, load_ink
from inkwash.io.folder import load_part
from inkwash.io.tensors import read_text

BOX = (0.4, 0.5)                # width and height of the middle that counts, in parts of the picture
CHROMA, LIGHTNESS = 40.0, 0.7
COLOURS = {                     # (LIGHTNESS L*, a*, b*), chroma drawn in
    "beige": (52, 6, 16), "black": (10, 3, 1), "blue": (33, 18, -34), "brown": (24, 14, 11), "green": (22, -30, 23), "grey": (38, 7, -1),
    "light blue": (52, 0, -23), "navy": (17, 12, -16), "olive": (26, -8, 24), "orange": (54, 21, 49), "pink": (47, 30, 0),
    "purple": (33, 28, -21), "red": (34, 48, 22), "teal": (28, -25, -14), "white": (63, 7, -4), "yellow": (54, -3, 57),
}
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)


class GarmentNamer:
    """The classifier of garments in the folder of a finished run of the recipe `features`.

    Raises CheckpointError: `no_part` when the run named no classes, and those of `load_ink`.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "garment" / "config.json").is_file():
            raise CheckpointError("no_part", f'"{folder}" has no classifier of garments; train one with classes in the recipe')
        self.extractor: NetworkExtractor = load_ink(folder, "ink")
        self.head = load_part(folder, "garment")
        self.classes: tuple[str, ...] = tuple(json.loads(read_text(folder, "features.json"))["classes"])

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, classes)."""
        found: Tensor = self.head(self.extractor(images))
        return found

    def __call__(self, images: Tensor) -> list[str]:
        """The kind of garment in each picture."""
        return [self.classes[int(i)] for i in self.logits(images).argmax(1)]


@cache
def _embedded() -> GarmentNamer:
    return GarmentNamer(embedded())


def garments() -> tuple[str, ...]:
    """The kinds that `names_garment` knows, in the words of the training captions."""
    return _embedded().classes


def names_garment(images: Tensor) -> list[str]:
    """The kind of garment in each of uint8 (B, 3, H, W), one of `garments()`. Raises UsageError `bad_images`."""
    return _embedded()(images)


def names_color(images: Tensor) -> list[str]:
    """The colour of the garment in the middle of each of uint8 (B, 3, H, W), one of `COLOURS`. Raises UsageError `bad_images`."""
    check_images(images)
    names = list(COLOURS)
    return [names[int(i)] for i in _distances(middle(images), names).argmin(1)]


def _distances(lab: Tensor, names: Sequence[str]) -> Tensor:
    """Squared distances (B, colours) of CIELAB colours (B, 3) from the fixed points."""
    points = torch.tensor([COLOURS[name] for name in names], dtype=torch.float64)
    chroma = lab[:, 1:].norm(dim=1, keepdim=True).clamp_min(1e-6)
    found = torch.cat([LIGHTNESS * lab[:, :1], lab[:, 1:] * (CHROMA / chroma).clamp(max=1)], 1)       # (B, 3)
    return (found[:, None] - points).square().sum(2)


def middle(images: Tensor) -> Tensor:
    """The median CIELAB colour (B, 3) of the middle of uint8 (B, 3, H, W), float64."""
    height, width = images.shape[-2:]
    top, left = int(height * (1 - BOX[1]) / 2), int(width * (1 - BOX[0]) / 2)
    box = images[:, :, top : height - top, left : width - left].double().flatten(2)     # (B, 3, N)
    return lab(box.transpose(1, 2)).median(1).values


def lab(rgb: Tensor) -> Tensor:
    """sRGB 0..255 (..., 3) to CIELAB of D65 (..., 3): L* in 0..100, a* and b* about -100..100."""
    values = rgb.double() / 255
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ torch.tensor(_TO_XYZ, dtype=torch.float64).T / torch.tensor(_WHITE, dtype=torch.float64)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
