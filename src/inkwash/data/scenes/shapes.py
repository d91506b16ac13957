"""Signed distances of the shapes, negative inside; X right, Y up, Z to the viewer; about one unit from the middle to the rim.

A value may be smaller than the true distance, never larger, so marching along a ray by it cannot step through a surface (sphere
tracing: Hart, 1996).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any                                                                             # np.ndarray, float32
Distance = Callable[[Array, Array, Array], Array]


def _extrude(flat: Array, z: Array, half: float, rounding: float) -> Array:
    """A flat outline given thickness, its edges rounded."""
    a, b = flat + rounding, np.abs(z) - (half - rounding)
    return np.minimum(np.maximum(a, b), 0) + np.hypot(np.maximum(a, 0), np.maximum(b, 0)) - rounding


def _sphere(x: Array, y: Array, z: Array) -> Array:
    return np.sqrt(x * x + y * y + z * z) - 0.95


def _cube(x: Array, y: Array, z: Array) -> Array:
    rounding, half = 0.07, 0.74
    a, b, c = (np.abs(axis) - (half - rounding) for axis in (x, y, z))
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
    return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0) - rounding


def _cylinder(x: Array, y: Array, z: Array) -> Array:
    return _extrude(np.hypot(x, z) - 0.7, y, 0.85, 0.05)


def _cone(x: Array, y: Array, z: Array) -> Array:
    slope = np.hypot(0.85, 1.8)
    return np.maximum((1.8 * np.hypot(x, z) + 0.85 * (y - 0.95)) / slope, -0.85 - y)


def _pyramid(x: Array, y: Array, z: Array) -> Array:
    slope = np.hypot(0.9, 1.55)
    side = (1.55 * np.maximum(np.abs(x), np.abs(z)) + 0.9 * (y - 0.8)) / slope
    return np.maximum(side, -0.75 - y)


def _ring(x: Array, y: Array, z: Array) -> Array:
    return np.hypot(np.hypot(x, z) - 0.68, y) - 0.31


def _star(x: Array, y: Array, z: Array) -> Array:
    radius, inner, fifth = 1.08, 0.5, np.pi / 5
    angle = np.arctan2(x, y)
    folded = np.abs((angle + fifth) % (2 * fifth) - fifth)
    length = np.hypot(x, y)
    along, across = length * np.cos(folded), length * np.sin(folded)
    edge = np.array([inner * np.cos(fifth) - radius, inner * np.sin(fifth)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    flat = (along - radius) * normal[0] + across * normal[1]
    return 0.9 * _extrude(flat, z, 0.3 - 0.13 * np.minimum(length, 1), 0.08)           # thicker in the middle


def _heart(x: Array, y: Array, z: Array) -> Array:
    half = 0.58
    turned_x, turned_y = (np.abs(x) - (y + 0.18)) / np.sqrt(2), (np.abs(x) + (y + 0.18)) / np.sqrt(2)
    a, b = np.abs(turned_x) - half, np.abs(turned_y) - half
    square = np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0)
    shift = half / np.sqrt(2)
    circle = np.hypot(np.abs(x) - shift, y + 0.18 - shift) - half
    blend = np.maximum(0.3 - np.abs(square - circle), 0) / 0.3
    return 0.9 * _extrude(np.minimum(square, circle) - 0.075 * blend * blend, z, 0.38, 0.3)


def _diamond(x: Array, y: Array, z: Array) -> Array:
    rim, top, bottom = 0.95, 0.55, -1.0
    around = np.maximum(np.maximum(np.abs(x), np.abs(z)), (np.abs(x) + np.abs(z)) / np.sqrt(2))   # eight sides
    crown = (0.42 * (around - rim) + 0.45 * (y - 0.15)) / np.hypot(0.42, 0.45)
    pavilion = (1.15 * around + rim * (bottom - y)) / np.hypot(1.15, rim)
    return np.maximum(np.maximum(crown, pavilion), y - top)


def _moon(x: Array, y: Array, z: Array) -> Array:
    outer = np.hypot(x, y) - 0.98
    bite = 0.82 - np.hypot(x - 0.52, y - 0.12)
    return 0.9 * _extrude(np.maximum(outer, bite), z, 0.26, 0.1)


# name: (distance, height of the middle above the ground, the yaw angles in degrees that show it well)
FORMS: dict[str, tuple[Distance, float, tuple[int, ...]]] = {
    "sphere": (_sphere, 0.95, (0,)),
    "cube": (_cube, 0.74, (18, 28, 38, 52, 62, 72)),
    "cylinder": (_cylinder, 0.85, (0,)),
    "cone": (_cone, 0.85, (0,)),
    "pyramid": (_pyramid, 0.75, (18, 28, 38, 52, 62, 72)),
    "ring": (_ring, 0.31, (0,)),
    "star": (_star, 0.87, (-25, -10, 10, 25)),
    "heart": (_heart, 1.05, (-25, -10, 10, 25)),
    "diamond": (_diamond, 1.0, (0, 15, 30)),
    "moon": (_moon, 0.98, (-20, -8, 8, 20)),
}
