"""Simpler scenes: fewer objects, or fewer of the words, as `objects=1..2,size=large+medium,light=soft`.

Every word keeps its meaning; the draw is only narrowed. A small model learns a narrow world in minutes.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from inkwash.data.scenes.vocabulary import BACKGROUNDS, COLOURS, LIGHTS, MATERIALS, SHAPES, SIZES
from inkwash.errors import DataError

MOST = 5
_WORDS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES), "color": tuple(COLOURS), "size": tuple(SIZES), "material": MATERIALS, "light": tuple(LIGHTS),
    "background": tuple(BACKGROUNDS),
}


@dataclass(frozen=True)
class Wanted:
    """What may be drawn. `objects` are the fewest and the most objects in a picture, the others are words."""

    objects: tuple[int, int] = (1, MOST)
    shape: tuple[str, ...] = _WORDS["shape"]
    color: tuple[str, ...] = _WORDS["color"]
    size: tuple[str, ...] = _WORDS["size"]
    material: tuple[str, ...] = _WORDS["material"]
    light: tuple[str, ...] = _WORDS["light"]
    background: tuple[str, ...] = _WORDS["background"]

    @property
    def text(self) -> str:
        """What `read` reads, without what is not narrowed; "" for everything."""
        parts = [] if self.objects == (1, MOST) else [f"objects={self.objects[0]}..{self.objects[1]}"]
        for key, words in _WORDS.items():
            chosen = getattr(self, key)
            if chosen != words:
                parts.append(f"{key}={'+'.join(chosen)}")
        return ",".join(parts)


def read(text: str) -> Wanted:
    """`key=value,...`: objects=N or objects=LOW..HIGH within 1..5; the other keys take words joined by `+`. Raises DataError `bad_scenes`."""
    found: dict[str, tuple[str, ...]] = {}
    objects = (1, MOST)
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or key not in ("objects", *_WORDS):
            raise DataError("bad_scenes", f"cannot read {part[:60]!r}; the options of scenes are objects, {', '.join(_WORDS)}, as size=large+medium")
        if key in found:
            raise DataError("bad_scenes", f"{key} is given twice; join the words with +")
        found[key] = ()
        if key == "objects":
            match = re.fullmatch(r"([1-5])(?:\.\.([1-5]))?", value)
            if match is None or int(match[2] or match[1]) < int(match[1]):
                raise DataError("bad_scenes", f"objects={value[:40]} is not a number or a range within 1..{MOST}; write objects=2 or objects=1..2")
            objects = int(match[1]), int(match[2] or match[1])
            continue
        chosen = value.split("+")
        for word in chosen:
            if word not in _WORDS[key]:
                near = difflib.get_close_matches(word, _WORDS[key], n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise DataError("bad_scenes", f"{key}={word[:40]} is not drawn; {hint}known: {', '.join(_WORDS[key])}")
        found[key] = tuple(word for word in _WORDS[key] if word in chosen)              # one order: the same words are the same scenes
    found.pop("objects", None)
    return Wanted(objects, **found)
