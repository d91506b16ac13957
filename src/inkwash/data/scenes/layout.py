"""What a scene holds and where: sampled from (seed, number), then placed so that its caption is true.

Positions are drawn until every rule holds: all objects inside the picture, hidden by others only as much as the relation asks for, and
the relation itself with a clear margin. When that fails for long, the objects shrink within their size's range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image

from inkwash.data.scenes.shapes import FORMS
from inkwash.data.scenes.sprite import COS, SIN, WINDOW, sprite
from inkwash.data.scenes.vocabulary import FLAT_TOPPED, SIZES, TOO_ALIKE, UNSEEN_AS_GLASS
from inkwash.data.scenes.wanted import Wanted
from inkwash.errors import DataError

T = TypeVar("T")
EVERYTHING = Wanted()
CANVAS = 128.0                                                                          # layout units: pixels of a 128-pixel picture
MARGIN = 4.0
_BROAD = ("cube", "cylinder", "cone", "pyramid", "ring")


class Dice:
    """Random choices from a counter-based generator: the same for a (seed, number) everywhere."""

    def __init__(self, seed: int, number: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))

    def real(self, low: float, high: float) -> float:
        """Uniform in low..high."""
        return low + (high - low) * float(self._generator.random())

    def pick(self, choices: Sequence[T] | Mapping[T, object]) -> T:
        """One of the choices, evenly."""
        listed = list(choices)
        return listed[min(int(self._generator.random() * len(listed)), len(listed) - 1)]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return float(self._generator.random()) < probability


@dataclass(frozen=True)
class Thing:
    """One object: x to the right and z to the viewer on the ground, base = height of its foot, radius; all in pixels of 128."""

    group: int
    shape: str
    yaw: int
    radius: float
    x: float = 0.0
    z: float = 0.0
    base: float = 0.0

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of its sprite on screen: x and y in pixels from the top left corner."""
        return CANVAS / 2 + self.x, CANVAS * 0.56 + self.z * SIN - (self.base + self.radius * FORMS[self.shape][1]) * COS


@dataclass(frozen=True)
class Group:
    """Objects that are alike."""

    shape: str
    colour: str
    size: str
    material: str
    count: int


@dataclass(frozen=True)
class Scene:
    """`relation` holds between group 0 and group 1: "left of", "above" or "behind", or "" with one group only."""

    groups: tuple[Group, ...]
    relation: str
    light: str
    side: int                                                                           # the light's: -1 left, 1 right
    background: str
    things: tuple[Thing, ...]


def sample(dice: Dice, wanted: Wanted = EVERYTHING) -> Scene:
    """Draw a scene. Combinations that find no true placement soon are drawn again. Raises DataError `bad_scenes` when none can be found."""
    for _ in range(400):
        scene = _draw(dice, wanted)
        if scene is None:
            continue
        for attempt in range(120):
            things = _place(scene, dice, shrink=min(1.0, attempt / 60))
            if _holds(scene, things):
                return replace(scene, things=things)
    raise DataError("bad_scenes", f"found no scene that can be drawn with {wanted.text}; allow more words")


def _draw(dice: Dice, wanted: Wanted = EVERYTHING) -> Scene | None:
    """None when these dice find no words that go together."""
    low, high = wanted.objects
    relation = dice.pick(("left of", "left of", "above", "behind")) if dice.chance(0.6) and high > 1 else ""
    limits = _within({"": (4,), "left of": (3, 2), "above": (1, 1), "behind": (2, 2)}[relation], high)
    counts = [1 + int(dice.real(0, 1) ** 1.3 * limit * 0.999) for limit in limits]
    total = sum(counts)
    groups: list[Group] = []
    for count in counts:
        colours = [name for name in wanted.color if all(name != other.colour for other in groups)]
        sizes: tuple[str, ...] = ("small", "medium", "large") if total <= 2 else ("small", "medium")
        if relation == "above" and groups:
            sizes = ("medium", "large") if groups[0].size == "medium" else ("large",) if groups[0].size == "large" else sizes
        sizes = tuple(name for name in sizes if name in wanted.size)
        if not colours or not sizes or total < low:
            return None
        colour = dice.pick(colours)
        twice = [name for name in wanted.material if name == "matte"]                   # matte is drawn twice as often as each of the others
        materials = [name for name in (*twice, *wanted.material) if name != "glass" or colour not in UNSEEN_AS_GLASS]
        if not materials:
            return None
        groups.append(Group(dice.pick(wanted.shape), colour, dice.pick(sizes), dice.pick(materials), count))
    if relation == "left of" and dice.chance(0.5):                                     # the larger group is on either side
        groups.reverse()
    backgrounds = [name for name in wanted.background if all(name not in TOO_ALIKE.get(group.colour, ()) for group in groups)]
    lights = [name for name in wanted.light if name in ("soft", "hard") or all(group.colour != "gray" for group in groups)]   # tinted gray is brown
    if not backgrounds or not lights:
        return None
    return Scene(tuple(groups), relation, dice.pick(lights), dice.pick((-1, 1)), dice.pick(backgrounds), ())


def _within(limits: tuple[int, ...], most: int) -> list[int]:
    """The limits of the groups, the largest made smaller until at most `most` objects can come of it."""
    found = list(limits)
    while sum(found) > most:
        found[found.index(max(found))] -= 1
    return found


def _place(scene: Scene, dice: Dice, shrink: float) -> tuple[Thing, ...]:
    """One guess: sizes are anywhere in their range at first and the smallest in the end."""
    radii = []
    total = sum(group.count for group in scene.groups)
    for group in scene.groups:
        low, high = SIZES[group.size]
        high = min(high, max(low, 66.0 if total == 1 else 56.0 if total == 2 else 38.0))
        radii.append(dice.real(low, low + (high - low) * (1 - shrink)) / 2)
    yaws = [dice.pick(FORMS[group.shape][2]) for group in scene.groups]
    reach = CANVAS / 2 - MARGIN
    split = dice.real(-14, 14)
    things: list[Thing] = []
    for number, group in enumerate(scene.groups):
        for _ in range(group.count):
            low, high = -reach + radii[number], reach - radii[number]
            if scene.relation == "left of":
                low, high = (low, split - radii[number]) if number == 0 else (split + radii[number], high)
            x, z = dice.real(low, max(low, high)), dice.real(-45, 75)
            if total == 1:
                x, z = dice.real(-16, 16), dice.real(0, 40)
            things.append(Thing(number, group.shape, yaws[number], radii[number], x, z))
    if scene.relation == "above":
        upper, lower = things
        height = 2 * lower.radius * FORMS[lower.shape][1]
        if lower.shape in FLAT_TOPPED:
            x, base = lower.x * 0.5, height
            z = lower.z
        else:
            hang = 0.45 * upper.radius if upper.shape in _BROAD else 0.1 * upper.radius  # how far the front edge hangs down on screen
            x, base, z = lower.x * 0.5, height + hang + dice.real(5, 9), lower.z
        things = [replace(upper, x=x + dice.real(-2, 2), z=z, base=base), replace(lower, x=x)]
    return _centred(things, dice)


def _centred(things: Sequence[Thing], dice: Dice) -> tuple[Thing, ...]:
    """Moved together so that the middle of all lies near the middle of the picture."""
    boxes = np.array([bounds(thing) for thing in things])
    left, top, right, bottom = boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max()
    free_x, free_y = max(0.0, CANVAS - 2 * MARGIN - (right - left)), max(0.0, CANVAS - 2 * MARGIN - (bottom - top))
    dx = CANVAS / 2 - (left + right) / 2 + dice.real(-0.25, 0.25) * free_x
    dy = CANVAS / 2 - (top + bottom) / 2 + dice.real(-0.12, 0.22) * free_y
    return tuple(replace(thing, x=thing.x + dx, z=thing.z + dy / SIN) for thing in things)


@lru_cache(maxsize=256)
def _extent(shape: str, yaw: int) -> tuple[float, float, float, float]:
    """left, top, right, bottom of the sprite's content, in units from its middle."""
    cover = sprite(shape, yaw, 160).cover
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    left, top, right, bottom = ((edges / 160 * 2 - 1) * WINDOW).tolist()
    return left, top, right, bottom


def bounds(thing: Thing) -> tuple[float, float, float, float]:
    """left, top, right, bottom of the object on screen, in pixels of 128."""
    left, top, right, bottom = _extent(thing.shape, thing.yaw)
    x, y = thing.centre
    return x + left * thing.radius, y + top * thing.radius, x + right * thing.radius, y + bottom * thing.radius


def drawing_order(things: Sequence[Thing]) -> list[int]:
    """From the back to the front; what stands on something comes after it."""
    return sorted(range(len(things)), key=lambda number: (things[number].z, things[number].base))


def visible(things: Sequence[Thing]) -> list[float]:
    """The share of each object's area that no other object hides."""
    owner = np.full((128, 128), -1)
    area = [0] * len(things)
    for number in drawing_order(things):
        thing = things[number]
        side = max(2, round(2 * WINDOW * thing.radius))
        cover = np.asarray(Image.fromarray(sprite(thing.shape, thing.yaw, 160).cover).resize((side, side), Image.Resampling.BOX)) > 0.5
        left, top = round(thing.centre[0] - side / 2), round(thing.centre[1] - side / 2)
        x0, y0, x1, y1 = max(0, left), max(0, top), min(128, left + side), min(128, top + side)
        inside = cover[y0 - top:y1 - top, x0 - left:x1 - left]
        owner[y0:y1, x0:x1][inside] = number
        area[number] = int(cover.sum())
    return [float((owner == number).sum()) / max(1, area[number]) for number in range(len(things))]


def _holds(scene: Scene, things: tuple[Thing, ...]) -> bool:
    boxes = [bounds(thing) for thing in things]
    if any(box[0] < MARGIN or box[1] < MARGIN or box[2] > CANVAS - MARGIN or box[3] > CANVAS - MARGIN for box in boxes):
        return False
    for a, b in ((a, b) for at, a in enumerate(things) for b in things[:at]):
        apart = a.radius + b.radius
        across = a.group != b.group
        if not (scene.relation == "above" and across) and math.hypot(a.x - b.x, a.z - b.z) < 1.12 * apart:
            return False
        if not (scene.relation in ("above", "behind") and across) and math.dist(a.centre, b.centre) < 1.15 * apart:
            return False
    first, second = ([number for number, thing in enumerate(things) if thing.group == group] for group in (0, 1))
    seen_at_least = [0.995] * len(things)
    if scene.relation == "left of":
        if max(boxes[a][2] for a in first) + 2 > min(boxes[b][0] for b in second):
            return False
        if abs(np.mean([things[a].z for a in first]) - np.mean([things[b].z for b in second])) > 30:
            return False
    if scene.relation == "above":
        seen_at_least = [0.995, 0.6]
    if scene.relation == "behind":
        if max(things[a].z for a in first) + 6 > min(things[b].z for b in second):
            return False
        if max(boxes[a][3] for a in first) + 1 > min(boxes[b][3] for b in second):     # their feet are farther up the picture too
            return False
        middle = [float(np.mean([things[number].x for number in members])) for members in (first, second)]
        if abs(middle[0] - middle[1]) > 0.6 * (things[first[0]].radius + things[second[0]].radius):
            return False
        if min(boxes[a][3] for a in first) < min(boxes[b][1] for b in second) + 3:     # else it would look like above
            return False
        seen_at_least = [0.6 if number in first else 0.995 for number in range(len(things))]
    return all(share >= least for share, least in zip(visible(things), seen_at_least, strict=True))
