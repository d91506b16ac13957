"""Items that training never sees.

Which items are held out is a function of their keys alone, not of the run's seed: an autoencoder, a text encoder and a denoiser that
are trained one after the other on the same data keep the same ones apart. The keys are ordered by their SHA-256; those up to a bound
are held out. A model stores the bound, so that what it never saw can be told later in any part of its data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from inkwash.data.item import Item, Source, fingerprint_of
from inkwash.data.source import Concat, Mixture, distinct


class Subset:
    """The items of `source` at `index`, in that order."""

    def __init__(self, source: Source, index: Sequence[int]) -> None:
        self.source, self.index = source, list(index)
        self.fingerprint = fingerprint_of("subset", [source.fingerprint, self.index])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Item:
        return self.source[self.index[index]]

    def key(self, index: int) -> str:
        return self.source.key(self.index[index])

    def caption(self, index: int) -> str:
        return self.source.caption(self.index[index])

    def where(self, index: int) -> str:
        return self.source.where(self.index[index])

    def describe(self) -> str:
        return f"{len(self)} of {self.source.describe()}"


def rank(key: str) -> str:
    """Where a key stands in the order: 64 hexadecimal digits."""
    return hashlib.sha256(f"held out {key}".encode("utf-8", "surrogateescape")).hexdigest()


def bound(validation: Source) -> str:
    """The largest rank among held-out items; with `hold_out_up_to` it says of any item whether it was held out."""
    return max(rank(validation.key(i)) for i in range(len(validation)))


def hold_out_up_to(source: Source, limit: str) -> tuple[Source, Source | None]:
    """(training, validation): the items whose rank is at most `limit` are held out."""
    base = distinct(source)
    return divide(source, {i for i in range(len(base)) if rank(base.key(i)) <= limit})


def hold_out(source: Source, count: int) -> tuple[Source, Source | None]:
    """(training, validation): the `count` items whose keys have the smallest hashes are held out, at most a tenth of all."""
    base = distinct(source)
    count = min(count, len(base) // 10)
    if count == 0:
        return source, None
    apart = set(sorted(range(len(base)), key=lambda i: rank(base.key(i)))[:count])
    return divide(source, apart)


def divide(source: Source, apart: Collection[int]) -> tuple[Source, Source | None]:
    """(all but, only) the items of `distinct(source)` whose positions are in `apart`; repeats stay with the first."""
    if not apart:
        return source, None
    base = distinct(source)
    parts = base.parts if isinstance(base, Concat) else [base]
    kept, first = [], 0
    for part in parts:
        kept.append(Subset(part, [i for i in range(len(part)) if first + i not in apart]))
        first += len(part)
    validation = Subset(base, sorted(apart))
    if isinstance(source, Mixture):
        return Mixture(kept, source.repeats), validation
    return Concat(kept), validation
