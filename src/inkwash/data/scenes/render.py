"""Light and colour: from a scene to pixels.

In linear light: an ambient dome plus one key light (Lambert, with a little wrap for soft light); Blinn-Phong highlights (Blinn, 1977);
metals mirror a plain studio, glass lets the background through and brightens at grazing angles (Schlick, 1994). Drawn at twice the
size, averaged down, and coded with gamma 2.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from inkwash.data.scenes.layout import CANVAS, Group, Scene, Thing, drawing_order
from inkwash.data.scenes.sprite import COS, REACH, SIN, WINDOW, shadow, sprite
from inkwash.data.scenes.vocabulary import BACKGROUNDS, COLOURS, FLAT_FACED, LIGHTS, Light

FINER = 2
VIEW = np.array([0.0, SIN, COS], dtype=np.float32)


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The picture, uint8 (size, size, 3)."""
    side = size * FINER
    scale = side / CANVAS
    light = LIGHTS[scene.light]
    frame = _ground(scene, light, side, scale)                                          # (side, side, 3) linear
    for number in drawing_order(scene.things):
        thing = scene.things[number]
        _draw(frame, thing, scene.groups[thing.group], light, scene.side, scale)
    small = frame.reshape(size, FINER, size, FINER, 3).mean((1, 3))
    pixels: np.ndarray = (np.sqrt(np.clip(small, 0, 1)) * 255 + 0.5).astype(np.uint8)
    return pixels


def _scaled(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    scaled: np.ndarray = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
    return scaled


def _overlap(left: int, top: int, width: int, height: int, side: int) -> tuple[slice, slice, slice, slice]:
    x0, y0, x1, y1 = max(0, left), max(0, top), min(side, left + width), min(side, top + height)
    x1, y1 = max(x0, x1), max(y0, y1)
    return slice(y0, y1), slice(x0, x1), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)


def _ground(scene: Scene, light: Light, side: int, scale: float) -> np.ndarray:
    """A seamless studio floor: brighter towards the back and the light, with shadows and a darker foot under every object."""
    down, across = np.linspace(0, 1, side, dtype=np.float32)[:, None], np.linspace(-1, 1, side, dtype=np.float32)[None]
    level = 1.06 - 0.16 * down + 0.05 * scene.side * across - 0.10 * ((across * across) + (2 * down - 1) ** 2) * 0.5
    key, ambient = np.array(light.key, dtype=np.float32), np.array(light.ambient, dtype=np.float32)
    lit, foot = np.zeros((side, side), dtype=np.float32), np.zeros((side, side), dtype=np.float32)
    direction = light.direction(scene.side)
    for thing in scene.things:
        group = scene.groups[thing.group]
        depth = 0.6 if group.material == "glass" else 1.0
        drop = -direction / direction[1] * thing.base                                   # where the raised foot's shadow falls
        towards = (float(direction[0]), float(direction[1]), float(direction[2]))
        shade = shadow(thing.shape, thing.yaw, towards, light.sharpness)
        _cast(lit, shade * depth, thing, float(drop[0]), float(drop[2]), scale)
        if thing.base == 0:
            _cast(foot, shadow(thing.shape, thing.yaw, (0.0, 1.0, 0.0), 1.6) * depth, thing, 0.0, 0.0, scale)
    tint = np.array(BACKGROUNDS[scene.background], dtype=np.float32)
    incoming = ambient * (1 - 0.45 * foot)[..., None] + key * np.float32(0.62) * (1 - light.shadow * lit)[..., None]
    exposure = np.float32(1 / (ambient + key * np.float32(0.62)).max())                # a white floor is just white
    return np.asarray(tint * level[..., None] * incoming * exposure)


def _cast(plane: np.ndarray, shade: np.ndarray, thing: Thing, dx: float, dz: float, scale: float) -> None:
    width, height = max(2, round(2 * REACH * thing.radius * scale)), max(2, round(2 * REACH * thing.radius * SIN * scale))
    x = (CANVAS / 2 + thing.x + dx) * scale
    y = (CANVAS * 0.56 + (thing.z + dz) * SIN) * scale
    rows, columns, from_rows, from_columns = _overlap(round(x - width / 2), round(y - height / 2), width, height, plane.shape[0])
    np.maximum(plane[rows, columns], _scaled(shade, width, height)[from_rows, from_columns], out=plane[rows, columns])


def _studio(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What a mirror sees in direction (x, y): a bright dome, a dark horizon, a light floor, and a window."""
    horizon = np.exp(-((y + 0.02) / 0.22) ** 2)
    dome = np.where(y > 0, 0.55 + 0.5 * y, 0.42)
    window = np.clip((0.42 - np.abs(x + 0.35)) * 8, 0, 1) * np.clip((0.26 - np.abs(y - 0.55)) * 8, 0, 1)
    return np.asarray(dome * (1 - 0.72 * horizon) + 0.9 * window)


def _draw(frame: np.ndarray, thing: Thing, group: Group, light: Light, side: int, scale: float) -> None:
    width = max(2, round(2 * WINDOW * thing.radius * scale))
    whole = sprite(thing.shape, thing.yaw, max(160, frame.shape[0] * 160 // 256))
    left, top = round(thing.centre[0] * scale - width / 2), round(thing.centre[1] * scale - width / 2)
    rows, columns, from_rows, from_columns = _overlap(left, top, width, width, frame.shape[0])
    cover = _scaled(whole.cover, width, width)[from_rows, from_columns]
    normal = np.stack([_scaled(plane, width, width)[from_rows, from_columns] for plane in whole.normal])   # (3, h, w)
    normal /= np.maximum(np.sqrt((normal * normal).sum(0)), 1e-4)
    height = _scaled(whole.height, width, width)[from_rows, from_columns] / np.maximum(cover, 1e-3) + thing.base / thing.radius

    direction = light.direction(side)
    colour = np.array(COLOURS[group.colour], dtype=np.float32)
    key, ambient = np.array(light.key, dtype=np.float32), np.array(light.ambient, dtype=np.float32)
    facing = np.tensordot(direction, normal, 1)                                        # cosine to the light
    toward = np.clip(np.tensordot(VIEW, normal, 1), 0, 1)                              # cosine to the viewer
    diffuse = np.clip((facing + light.wrap) / (1 + light.wrap), 0, 1)
    dome = (0.68 + 0.32 * normal[1]) * np.clip(0.62 + 0.5 * height, 0.62, 1)           # darker below and near the floor
    half = direction + VIEW
    half /= np.sqrt((half * half).sum())
    gloss = np.clip(np.tensordot(half, normal, 1), 0, 1)
    fresnel = (1 - toward) ** 3
    polish = 0.2 if thing.shape in FLAT_FACED else 1.0
    received = ambient * dome[..., None] + key * diffuse[..., None]                    # (h, w, 3)

    if group.material == "matte":
        shaded, opacity = colour * received * 1.05, cover
    elif group.material == "shiny":
        shine = polish * (1.1 * gloss ** 70 + 0.22 * gloss ** 12)
        shaded, opacity = colour * received + (shine[..., None] * key + (0.16 * fresnel)[..., None] * ambient), cover
    elif group.material == "metal":
        mirror = 2 * toward * normal - VIEW[:, None, None]
        seen = _studio(mirror[1] + 0.35 * (height - 0.9), mirror[0] * side)             # near walls: flat faces show a gradient too
        tinted = colour * 0.92 + 0.035
        shaded = tinted * (seen[..., None] * (ambient + 0.75 * key) + 0.25 * received) + (polish * gloss ** 50)[..., None] * key
        opacity = cover
    else:
        shine = polish * (1.6 * gloss ** 120 + 0.25 * gloss ** 18)
        back = np.clip(-facing, 0, 1) ** 2                                              # light gathered on the far side
        body = colour * (ambient + key * 0.25 + (0.9 * back)[..., None] * key)
        density = np.clip(0.30 + 0.45 * (1 - toward) ** 1.5, 0, 1)
        through = frame[rows, columns] * (0.12 + 0.88 * np.sqrt(colour))
        rim = np.clip(1 - np.abs(toward - 0.22) * 7, 0, 1)
        shaded = through * (1 - density)[..., None] + body * density[..., None] + shine[..., None] * key + (0.28 * rim)[..., None] * ambient
        opacity = cover
    frame[rows, columns] += opacity[..., None] * (shaded - frame[rows, columns])
