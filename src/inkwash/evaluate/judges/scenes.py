"""Does a picture of a drawn scene show what its words ask for? Objects are found and named by exact rules, without a trained judge.

A pixel of an object is its colour's linear light times a shade, c = k C, and a pixel of the floor is the background's, so each pixel
belongs to what explains it best. Connected pixels of one colour are an object. Its shape is that of the nearest of many drawn silhouettes
with their shading, each stretched to its own box. The rules are for matte objects in even light, in colours that can be told from the floor
(`EASY`). Words are judged one by one, and together: binding counts an object only where colour and shape meet (Huang et al. 2023,
arXiv 2307.06350).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from inkwash.data.scenes.layout import CANVAS, _extent
from inkwash.data.scenes.shapes import FORMS
from inkwash.data.scenes.source import draw
from inkwash.data.scenes.vocabulary import COLOURS, SIZES
from inkwash.data.scenes.wanted import Wanted
from inkwash.errors import UsageError

SIDE = 16                                                                               # silhouettes are compared on SIDE x SIDE cells
SHADES = (0.42, 1.3)                                                                    # an object's light, as a part of its colour
FLOOR = (0.5, 1.2)                                                                      # the floor's, shadows included
LEAST = 45.0                                                                            # square pixels of 128: less is not an object
NAMED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "cyan")
BANK_SEED = 2**40
EASY = Wanted(objects=(1, 1), color=NAMED, material=("matte",), light=("soft",))


class Found(NamedTuple):
    """An object in a picture: its box is left, top, right, bottom in pixels of 128."""

    shape: str
    color: str
    size: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Verdict:
    """What of a caption holds; None where it says nothing of the kind. `right` is all of it together, but for the size, which many leave open."""

    object: bool
    color: bool
    size: bool
    count: bool
    position: bool | None
    binding: bool

    @property
    def right(self) -> bool:
        return self.count and self.binding and self.position is not False


@dataclass(frozen=True)
class Bank:
    """Silhouettes with shading (K, D), the shape of each, and `rim`, how many pixels of an object's width are lost to its soft edges.

    `size` is that of the pictures in pixels, `colors` are the colours that are looked for.
    """

    size: int
    colors: tuple[str, ...]
    features: np.ndarray
    shapes: tuple[str, ...]
    rim: float

    def nearest(self, feature: np.ndarray) -> str:
        """The shape of the silhouette at the smallest squared distance to `feature` (D,)."""
        return self.shapes[int(((self.features - feature) ** 2).sum(1).argmin())]


def linear(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) to linear light, as the renderer codes it: gamma 2."""
    return np.square(pixels.astype(np.float64) / 255)


def _residual(light: np.ndarray, tint: np.ndarray, low: float, high: float) -> np.ndarray:
    """min over k in low..high of |sqrt(light) - sqrt(k tint)|: (H, W, 3), (3,) -> (H, W)."""
    coded, root = np.sqrt(light), np.sqrt(tint)
    k = np.clip((coded @ root) / (root @ root), np.sqrt(low), np.sqrt(high))
    distance: np.ndarray = np.sqrt(((coded - k[..., None] * root) ** 2).sum(-1))
    return distance


def colour_map(pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The number of the colour of each pixel (H, W), -1 for the floor. The floor's colour is the median of the picture's edge."""
    light = linear(pixels)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    floor = _residual(light, np.median(edge, axis=0), *FLOOR)
    among = np.stack([_residual(light, np.array(COLOURS[name]), *SHADES) for name in names])
    best = among.argmin(0)
    return np.where(among.min(0) < floor, best, -1)


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Masks (H, W) of the parts of a mask that touch along edges."""
    left, parts = mask.copy(), []
    while left.any():
        part = np.zeros_like(left)
        part[np.unravel_index(int(left.argmax()), left.shape)] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= left
            if grown.sum() == part.sum():
                break
            part = grown
        left &= ~part
        parts.append(part)
    return parts


def _solid(part: np.ndarray) -> bool:
    """Whether any pixel has its four neighbours in the part. Rims, where object and floor mix to a third colour, are thinner."""
    return bool((part[1:-1, 1:-1] & part[:-2, 1:-1] & part[2:, 1:-1] & part[1:-1, :-2] & part[1:-1, 2:]).any())


def _feature(pixels: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The silhouette and shading of a part in its own box, and the box; the aspect ratio counts too."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cover = part[top:bottom, left:right].astype(np.float64)
    grey = np.sqrt(linear(pixels[top:bottom, left:right]).mean(-1)) * cover
    grey /= max(1e-6, float(grey.sum() / max(1.0, cover.sum())))
    y, x = _cells(bottom - top), _cells(right - left)
    aspect = np.full(1, 8.0 * np.log((right - left) / (bottom - top)))
    return np.concatenate([(y @ cover @ x.T).ravel(), (y @ grey @ x.T).ravel() * 0.7, aspect]), (left, top, right, bottom)


@lru_cache(maxsize=256)
def _cells(length: int) -> np.ndarray:
    """(SIDE, length): linear interpolation of `length` samples at the middles of SIDE cells."""
    at = np.clip((np.arange(SIDE) + 0.5) / SIDE * length - 0.5, 0, length - 1)
    low = np.minimum(at.astype(int), max(0, length - 2))
    out = np.zeros((SIDE, length))
    out[np.arange(SIDE), low] = 1 - (at - low)
    if length > 1:
        out[np.arange(SIDE), low + 1] = at - low
    return out


def _parts(pixels: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    numbers = colour_map(pixels, names)
    least = LEAST * (pixels.shape[0] / CANVAS) ** 2
    masks = [(name, numbers == at) for at, name in enumerate(names)]
    return [(name, part) for name, mask in masks if mask.sum() >= least for part in components(mask) if part.sum() >= least and _solid(part)]


@lru_cache(maxsize=8)
def bank(size: int, wanted: Wanted = EASY, count: int = 2000) -> Bank:
    """Silhouettes of `count` drawn scenes of one object at `size` pixels, from a row of scenes that nothing else draws from."""
    wanted = replace(wanted, objects=(1, 1))
    features, shapes, rims = [], [], []
    for number in range(count):
        picture = draw(BANK_SEED, number, size, wanted=wanted)
        label: Any = picture.labels["objects"]
        parts = _parts(picture.pixels, wanted.color)
        if parts:
            feature, (left, _, right, _) = _feature(picture.pixels, max(parts, key=lambda named: named[1].sum())[1])
            features.append(feature)
            shapes.append(label[0]["shape"])
            rims.append(label[0]["boxes"][0][2] - label[0]["boxes"][0][0] - (right - left))
    return Bank(size, wanted.color, np.array(features), tuple(shapes), float(np.median(rims)))


@lru_cache(maxsize=16)
def _breadth(shape: str) -> float:
    """The mean width of a shape on screen as a part of its diameter."""
    edges = [_extent(shape, yaw) for yaw in FORMS[shape][2]]
    return sum(right - left for left, _, right, _ in edges) / 2 / len(edges)


def find(pixels: np.ndarray, known: Bank) -> list[Found]:
    """The objects of a picture, uint8 (S, S, 3) with S = known.size, the largest first. Raises UsageError `bad_size`."""
    if pixels.shape != (known.size, known.size, 3) or pixels.dtype != np.uint8:
        raise UsageError("bad_size", f"this bank is for uint8 pictures of shape {(known.size, known.size, 3)}, got {pixels.shape} {pixels.dtype}; "
                                     f"draw a bank of the pictures' size")
    scale = CANVAS / pixels.shape[0]
    found = []
    for colour, part in sorted(_parts(pixels, known.colors), key=lambda named: -int(named[1].sum())):
        feature, (left, top, right, bottom) = _feature(pixels, part)
        shape = known.nearest(feature)
        diameter = (right - left + known.rim) * scale / _breadth(shape)
        size = min(SIZES, key=lambda name: abs(np.log(diameter / (sum(SIZES[name]) / 2))))
        found.append(Found(shape, colour, size, (left * scale, top * scale, right * scale, bottom * scale)))
    return found


def judge(found: Sequence[Found], labels: Mapping[str, Any]) -> Verdict:
    """What of a scene's labels, those of `draw`, holds for the objects that were found."""
    groups = labels["objects"]
    shapes, colours = Counter(seen.shape for seen in found), Counter(seen.color for seen in found)
    both = Counter((seen.color, seen.shape) for seen in found)
    by_colour = {group["color"]: group["count"] for group in groups}
    sizes = Counter((seen.color, seen.size) for seen in found)
    return Verdict(
        object=all(shapes[group["shape"]] >= 1 for group in groups),
        color=all(colours[group["color"]] >= 1 for group in groups),
        size=all(sizes[group["color"], group["size"]] >= group["count"] for group in groups),
        count=len(found) == sum(by_colour.values()) and all(colours[name] == count for name, count in by_colour.items()),
        position=None if labels["relation"] is None else _placed(found, groups, labels["relation"]),
        binding=all(both[group["color"], group["shape"]] >= group["count"] for group in groups),
    )


def _placed(found: Sequence[Found], groups: Sequence[Mapping[str, Any]], relation: Mapping[str, Any]) -> bool:
    """Whether the relation holds between the middles of the objects of the two colours; their feet, for what stands behind."""
    places = []
    for role in ("subject", "object"):
        boxes = np.array([seen.box for seen in found if seen.color == groups[relation[role]]["color"]])
        if not len(boxes):
            return False
        left, top, right, bottom = boxes.mean(0)
        places.append(((left + right) / 2, (top + bottom) / 2, bottom))
    (x, y, foot), (other_x, other_y, other_foot) = places
    return bool({"left of": x < other_x, "right of": x > other_x, "above": y < other_y, "below": y > other_y,
                 "behind": foot < other_foot, "in front of": foot > other_foot}[relation["relation"]])


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The share of captions that hold, by kind and in all, over those that say something of the kind."""
    kinds = [*(field.name for field in fields(Verdict)), "right"]
    told = {kind: [bool(value) for verdict in verdicts if (value := getattr(verdict, kind)) is not None] for kind in kinds}
    return {kind: sum(values) / len(values) for kind, values in told.items() if values}
