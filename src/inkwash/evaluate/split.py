"""Which pictures of a data set a model never saw.

Training holds items out by the rank of their keys, and a model's card keeps the bound (`inkwash.data.heldout`). So the pictures to measure on
are found again in the training data or in any part of it, and no picture that was trained on counts as real data to compare with. Where the
card does not say, it must be said: a number of items, as the run had in `data.validation`, or "all" for data that training never touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from inkwash.data.heldout import hold_out, hold_out_up_to
from inkwash.data.source import Concat, Source, distinct
from inkwash.errors import DataError, UsageError

Reference = Literal["held-out", "train", "all"]


class Split(NamedTuple):
    """`held_out` was never trained on; `train` may have been; `rule` says how that is known."""

    train: Source | None
    held_out: Source | None
    rule: str

    def reference(self, which: str) -> Source:
        """The pictures that samples are compared with. Raises UsageError `bad_reference`, DataError `no_reference`."""
        if which not in ("held-out", "train", "all"):
            raise UsageError("bad_reference", f"the reference is {which[:40]!r}; give held-out, train or all")
        parts = [part for part, wanted in ((self.train, which != "held-out"), (self.held_out, which != "train")) if wanted and part is not None]
        if not parts:
            raise DataError("no_reference", f"the data has no {which} pictures ({self.rule}); give other --data, or --held-out")
        return parts[0] if len(parts) == 1 else Concat(parts)


def split(source: Source, card: Mapping[str, Any], held_out: str | None) -> Split:
    """By `held_out` ("all", a number, or a bound), else by the model's card. Raises UsageError `held_out_unknown`, `bad_held_out`."""
    base = distinct(source)
    if held_out is None:
        bound = card.get("held_out")
        if isinstance(bound, str):
            return _known(*hold_out_up_to(base, bound), "by the bound in the model's card")
        images = card.get("images")
        rest = len(base) - images if isinstance(images, int) else 0
        if 0 < rest <= len(base) // 10:
            return _known(*hold_out(base, rest), f"the {rest} items of smallest rank, as many as the model's card leaves of this data")
        raise UsageError("held_out_unknown", "the model's card does not say which of these pictures it never saw; say --held-out NUMBER, as its run "
                                             "had in data.validation of the same data, or --held-out all for pictures that were not trained on")
    if held_out == "all":
        return Split(None, base, "all of the data, said to be unknown to the model")
    if re.fullmatch(r"[0-9a-f]{64}", held_out):
        return _known(*hold_out_up_to(base, held_out), "by the bound that was given")
    if re.fullmatch(r"[0-9]{1,9}", held_out):
        return _known(*hold_out(base, int(held_out)), f"the {held_out} items of smallest rank, at most a tenth, as was said")
    raise UsageError("bad_held_out", f"--held-out is {held_out[:40]!r}; give all, a number of items, or a bound of 64 hexadecimal digits")


def _known(train: Source, held_out: Source | None, rule: str) -> Split:
    return Split(train, held_out, rule)
