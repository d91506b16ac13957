"""What the caption of a drawn scene asks for, read back from its words, as far as `inkwash.evaluate.judges.scenes` can judge it.

The captions are those of `inkwash.data.scenes`: one group of objects, or two and how they stand to each other, then perhaps the background and the
light. The judge's rules are for matte objects in even light and for nine colours, so captions that name glass, metal, gloss, another light or
another colour are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from inkwash.data.scenes.vocabulary import NUMBERS, SHAPES
from inkwash.evaluate.judges.scenes import NAMED

_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in NUMBERS.items()}}
_NAMES = {word: shape for shape, words in SHAPES.items() for both in words for word in both}
_PLACES = {"to the left of": "left of", "left of": "left of", "to the right of": "right of", "right of": "right of", "on top of": "above",
           "above": "above", "below": "below", "under": "below", "behind": "behind", "in front of": "in front of"}


@cache
def _pattern() -> re.Pattern[str]:
    group = rf"({'|'.join(_COUNTS)}) (?:small |large )?(?:matte )?({'|'.join(NAMED)}) ({'|'.join(sorted(_NAMES, key=len, reverse=True))})"
    return re.compile(rf"{group}(?: ({'|'.join(_PLACES)}) {group})?(?: on an? [a-z ]+ background)?(?:, soft light)?", re.IGNORECASE)


def scene_of(caption: str) -> Mapping[str, Any] | None:
    """The labels of a scene, as those of `inkwash.data.scenes.source.draw`, that the caption names; None where it cannot be judged."""
    found = _pattern().fullmatch(caption.strip())
    if found is None:
        return None
    words = [word.lower() if word else None for word in found.groups()]
    groups = [{"count": _COUNTS[count], "color": color, "shape": _NAMES[shape], "size": "medium"}
              for count, color, shape in (words[:3], words[4:]) if count and color and shape]
    relation = {"subject": 0, "relation": _PLACES[words[3]], "object": 1} if words[3] else None
    same = len(groups) == 2 and groups[0]["color"] == groups[1]["color"]
    return None if same else {"objects": groups, "relation": relation}
