"""What the camera sees of one shape, and the shadow it throws, both at unit size.

The camera is orthographic and looks down by PITCH, so a shape looks the same wherever it stands: normals and coverage are traced once
per (shape, yaw), shadows once per (shape, yaw, light), and scenes only scale and shade them. On screen a world point w lies at
(w_x, cos(PITCH) w_y - sin(PITCH) w_z), upwards.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from inkwash.data.scenes.shapes import FORMS

PITCH = np.deg2rad(27.0)
SIN, COS = float(np.sin(PITCH)), float(np.cos(PITCH))
WINDOW = 1.3                                                                            # half width of a sprite, in units
REACH = 4.4                                                                             # half width of a shadow on the ground, in units


class Sprite(NamedTuple):
    """Row 0 is the top. Normals point out of the shape, in world axes; `height` is that of the surface above the ground, in units."""

    cover: np.ndarray                                                                   # (S, S) float32, 0 or 1
    normal: np.ndarray                                                                  # (3, S, S) float32
    height: np.ndarray                                                                  # (S, S) float32


def _turned(shape: str, yaw: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    angle = np.deg2rad(yaw)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.asarray(FORMS[shape][0](cos * x - sin * z, y, sin * x + cos * z))


@lru_cache(maxsize=256)
def sprite(shape: str, yaw: int, side: int) -> Sprite:
    """Trace the shape on a grid of side x side rays."""
    line = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) * WINDOW
    u, v = np.meshgrid(line, -line)
    x, y, z = (axis.ravel() for axis in (u, v * COS + 2 * SIN, -v * SIN + 2 * COS))
    travelled = np.zeros(side * side, dtype=np.float32)
    active = np.arange(side * side)                                                     # rays that are still under way
    for _ in range(60):
        way = travelled[active]
        distance = _turned(shape, yaw, x[active], y[active] - way * SIN, z[active] - way * COS)
        travelled[active] = way + np.maximum(distance, 0)
        active = active[(distance > 0.001) & (travelled[active] < 4)]
    hit = np.flatnonzero(travelled < 4)
    point = [x[hit], (y - travelled * SIN)[hit], (z - travelled * COS)[hit]]
    near = _turned(shape, yaw, point[0], point[1], point[2]) < 0.02
    hit, point = hit[near], [axis[near] for axis in point]
    normal = np.zeros((3, side * side), dtype=np.float32)
    for axis in range(3):
        ahead, back = list(point), list(point)
        ahead[axis], back[axis] = point[axis] + 0.008, point[axis] - 0.008
        normal[axis, hit] = _turned(shape, yaw, ahead[0], ahead[1], ahead[2]) - _turned(shape, yaw, back[0], back[1], back[2])
    normal /= np.maximum(np.sqrt((normal ** 2).sum(0)), 1e-6)
    cover, height = np.zeros(side * side, dtype=np.float32), np.zeros(side * side, dtype=np.float32)
    cover[hit] = 1
    height[hit] = point[1] + FORMS[shape][1]
    return Sprite(cover.reshape(side, side), normal.reshape(3, side, side), height.reshape(side, side))


@lru_cache(maxsize=1024)
def shadow(shape: str, yaw: int, light: tuple[float, float, float], sharpness: float) -> np.ndarray:
    """How much light is kept from the ground around the shape's foot, 0..1: (64, 128) over z (far to near) and x in -REACH..REACH.

    The penumbra is the smallest ratio of distance to way travelled, times `sharpness` (Quilez, 2010).
    """
    across, along = np.meshgrid(np.linspace(-REACH, REACH, 128, dtype=np.float32), np.linspace(-REACH, REACH, 64, dtype=np.float32))
    x, z = across.ravel(), along.ravel()
    lift = np.float32(FORMS[shape][1])
    open_sky = np.ones_like(x)
    travelled = np.full_like(x, 0.03)
    active = np.arange(x.size)                                                          # rays that may still meet the shape
    for _ in range(30):
        way = travelled[active]
        distance = _turned(shape, yaw, x[active] + way * light[0], way * light[1] - lift, z[active] + way * light[2])
        open_sky[active] = np.minimum(open_sky[active], 0.5 + 0.5 * sharpness * distance / way)
        travelled[active] = way + np.clip(distance, 0.06, 0.5)
        active = active[(open_sky[active] > 0) & (travelled[active] * light[1] < 2.6)]
    open_sky = np.clip(open_sky, 0, 1)
    fade = np.clip((REACH - np.hypot(x, z)) / 1.6, 0, 1)                                # long shadows end softly
    return ((1 - open_sky * open_sky * (3 - 2 * open_sky)) * fade).reshape(64, 128).astype(np.float32)
