"""The words of the scenes, and what each of them means in numbers.

Colours are linear light in 0..1. Sizes are diameters in pixels of a 128-pixel picture; their ranges never meet, so `small`, medium and
`large` can be told apart in any picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
SHAPES = {                                                                              # name: (singular, plural) words, the canonical first
    "sphere": (("sphere", "spheres"), ("ball", "balls")),
    "cube": (("cube", "cubes"), ("block", "blocks"), ("box", "boxes")),
    "cylinder": (("cylinder", "cylinders"),),
    "cone": (("cone", "cones"),),
    "pyramid": (("pyramid", "pyramids"),),
    "ring": (("ring", "rings"), ("donut", "donuts")),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "diamond": (("diamond", "diamonds"),),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
}
FLAT_TOPPED = ("cube", "cylinder")
FLAT_FACED = ("cube", "pyramid", "diamond")                                            # a highlight would cover a whole face


def _linear(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[at:at + 2], 16) / 255 for at in (0, 2, 4))
    return red * red, green * green, blue * blue


COLOURS = {name: _linear(code) for name, code in {
    "red": "e02a26", "orange": "f58a1f", "yellow": "fbd72b", "green": "38a845", "blue": "2860e0", "purple": "8a3cc2",
    "pink": "f878b4", "brown": "7a4826", "white": "f7f7f5", "black": "26262a", "gray": "8d9096", "cyan": "2cc3d4",
}.items()}
BACKGROUNDS = {name: _linear(code) for name, code in {
    "white": "f6f6f6", "gray": "c4c7cb", "light blue": "c3dcf0", "beige": "eadfc8", "pale pink": "f2d4da", "pale green": "cfe6cd",
}.items()}
TOO_ALIKE = {"white": ("white", "beige"), "gray": ("gray",), "cyan": ("light blue",), "yellow": ("beige",), "pink": ("pale pink",),
             "green": ("pale green",)}
SIZES = {"small": (23.0, 29.0), "medium": (34.0, 44.0), "large": (52.0, 70.0)}
UNSEEN_AS_GLASS = ("white", "gray", "black", "brown")
MATERIALS = ("matte", "shiny", "metal", "glass")
RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "behind": "in front of", "in front of": "behind"}


@dataclass(frozen=True)
class Light:
    """A key light from azimuth (degrees, 0 = from the viewer, positive = from the right) and elevation, and the ambient light."""

    elevation: float
    azimuth: float
    key: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sharpness: float                                                                    # of the shadow's edge
    shadow: float                                                                       # its depth, 0..1
    wrap: float                                                                         # how far light reaches round an object

    def direction(self, side: int) -> np.ndarray:
        """The unit vector towards the light; `side` is -1 for left, 1 for right. X right, Y up, Z to the viewer."""
        up, turn = np.deg2rad(self.elevation), np.deg2rad(self.azimuth) * side
        return np.array([np.cos(up) * np.sin(turn), np.sin(up), np.cos(up) * np.cos(turn)], dtype=np.float32)


LIGHTS = {
    "soft": Light(62, 35, (0.62, 0.62, 0.62), (0.50, 0.50, 0.52), 3.0, 0.45, 0.35),
    "hard": Light(42, 75, (1.00, 1.00, 0.98), (0.22, 0.23, 0.26), 24.0, 0.72, 0.0),
    "warm": Light(50, 50, (0.90, 0.78, 0.60), (0.45, 0.42, 0.37), 6.0, 0.50, 0.15),
    "evening": Light(29, 65, (1.00, 0.66, 0.42), (0.27, 0.25, 0.33), 10.0, 0.60, 0.05),
}
