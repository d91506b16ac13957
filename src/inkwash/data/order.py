"""Which items make up a global batch: a pure function of (seed, step), without state.

In `Uniform`, batch `step` covers positions step*B .. step*B + B - 1 of an endless row of epochs, each a permutation of all items. A
batch may hold the end of one epoch and the start of the next, so nothing is dropped.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from inkwash.data.shuffle import permute


class Slots(NamedTuple):
    """The items of a global batch, in order, and the size that its images have."""

    epoch: np.ndarray                                                                   # (B,) int64
    index: np.ndarray  # type: ignore[assignment]                                      # (B,) int64, with repeats
    size: tuple[int, int]                                                               # height, width


class Order(Protocol):
    """`at(step)` gives the global batch; `name` identifies the order in a fingerprint; `steps_per_epoch` may be fractional."""

    name: str
    steps_per_epoch: float

    def at(self, step: int) -> Slots: ...


class Uniform:
    """Every item once an epoch, all images of one size. The order is that of batches `accumulate` times as large."""

    def __init__(self, count: int, batch_size: int, seed: int, size: tuple[int, int], accumulate: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.size = count, batch_size, seed, size
        self.name = f"uniform {count} {batch_size * accumulate} {seed} {size}"
        self.steps_per_epoch = count / batch_size

    def at(self, step: int) -> Slots:
        """Global batch `step`, from 0."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        epoch, offset = np.divmod(position, self.count)
        return Slots(epoch, permute(offset, self.count, self.seed, epoch), self.size)
