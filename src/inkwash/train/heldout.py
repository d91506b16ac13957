"""Items that training never sees.

Which items are held out is a function of their keys alone, not of the run's seed: an autoencoder, a text encoder and a denoiser that
are trained one after the other on the same data keep the same ones apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from inkwash.data.item import Item, Source, fingerprint_of
from inkwash.data.source import Concat, Mixture


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


def hold_out(source: Source, count: int) -> tuple[Source, Source | None]:
    """(training, validation): the `count` items whose keys have the smallest hashes are held out, at most a tenth of all."""
    base = source.base if isinstance(source, Mixture) else source
    count = min(count, len(base) // 10)
    if count == 0:
        return source, None
    order = sorted(range(len(base)), key=lambda i: hashlib.sha256(f"held out {base.key(i)}".encode()).digest())
    apart = set(order[:count])
    parts = base.parts if isinstance(base, Concat) else [base]
    kept, first = [], 0
    for part in parts:
        kept.append(Subset(part, [i for i in range(len(part)) if first + i not in apart]))
        first += len(part)
    validation = Subset(base, sorted(apart))
    if isinstance(source, Mixture):
        return Mixture(kept, source.repeats), validation
    return Concat(kept), validation
