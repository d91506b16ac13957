"""Which items of a source are trained on, and how often, by what their captions say.

A data set that has one person in six skin tones shows the person six times as often as an apple. Rules of regular expressions put that right
without another copy of the data, and keep combinations out that a model is later asked for, to see whether it can combine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from inkwash.data.item import Item, Source, fingerprint_of
from inkwash.data.source import distinct, origin
from inkwash.errors import DataError


class Chosen:
    """The positions `rows` of `source`, in that order; a row may occur several times. `base` holds every item once."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.source, self.rows, self.base = source, rows, distinct(source)
        self.fingerprint = fingerprint_of("chosen", [source.fingerprint, rows.tolist()])

    def __len__(self) -> int:
        return len(self.rows)

    def origin(self, index: np.ndarray) -> np.ndarray:
        """Positions here -> positions in `base`."""
        return origin(self.source, self.rows[np.asarray(index, dtype=np.int64)])

    def __getitem__(self, index: int) -> Item:
        return self.source[int(self.rows[index])]

    def key(self, index: int) -> str:
        return self.source.key(int(self.rows[index]))

    def where(self, index: int) -> str:
        return self.source.where(int(self.rows[index]))

    def caption(self, index: int) -> str:
        return self.source.caption(int(self.rows[index]))

    def describe(self) -> str:
        return f"{len(self)} places of {self.source.describe()}"


def choose(source: Source, leave_out: Sequence[str], repeat: Mapping[str, int]) -> Source:
    """`source` without the items whose caption matches a pattern of `leave_out`, the others as often as the first pattern of `repeat` says.

    Those that no pattern matches stand there once. Patterns are regular expressions that may match anywhere in the caption. Raises
    DataError `data_empty` when nothing is left.
    """
    if not leave_out and not repeat:
        return source
    out = [re.compile(pattern) for pattern in leave_out]
    rules = [(re.compile(pattern), count) for pattern, count in repeat.items()]
    times = np.empty(len(source), dtype=np.int64)
    for index in range(len(source)):
        caption = source.caption(index)
        times[index] = 0 if any(one.search(caption) for one in out) else next((count for rule, count in rules if rule.search(caption)), 1)
    rows = np.repeat(np.arange(len(source), dtype=np.int64), times)
    if not len(rows):
        raise DataError("data_empty", "data.leave_out leaves nothing to train on; remove a pattern")
    return Chosen(source, rows)
