"""The forms of a caption: people ask for one thing in several ways, and data sets write it in one.

Rule k = (pattern, replacement) makes form k + 1 of every caption by a regular expression; form 0 is the caption itself, and so is every form
whose pattern does not match. In each epoch an item has one form, drawn from (seed, epoch, item).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from inkwash.data.item import Source
from inkwash.data.shuffle import mix

Rules = Sequence[tuple[str, str]]


class Forms:
    """All forms of all captions of `source`: position form * len(source) + item."""

    def __init__(self, source: Source, rules: Rules) -> None:
        self.source = source
        self.rules = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    @property
    def rules_text(self) -> list[list[str]]:
        """The rules as plain data, for a fingerprint."""
        return [[pattern.pattern, replacement] for pattern, replacement in self.rules]

    def __len__(self) -> int:
        return len(self.source) * (1 + len(self.rules))

    def caption(self, index: int) -> str:
        form, item = divmod(index, len(self.source))
        return self.write(self.source.caption(item), form)

    def write(self, caption: str, form: int) -> str:
        """Form `form` of a caption."""
        if form == 0:
            return caption
        pattern, replacement = self.rules[form - 1]
        return pattern.sub(replacement, caption)

    def draw(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
        """One form for each (seed, epoch, index), all equally likely: int64."""
        return (mix(seed, epoch, index, 0xCA97) % np.uint64(1 + len(self.rules))).astype(np.int64)
