"""The only place where pixels change: one row of every sample's plan.

Every sum runs over the columns in one fixed order, by separate multiplications and additions of whole tensors. So a sample's bits do not
depend on its neighbours, on its place in the batch, or on which rows these are in: adding a column of weight zero changes no bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.core.level import broadcast
from inkwash.sample.plan import HISTORY


class State(NamedTuple):
    """All that a batch of samples remembers between rows."""

    x: Tensor                                              # (N, ...) what the network sees next
    base: Tensor                                           # (N, ...)
    h: tuple[Tensor, ...]                                  # HISTORY of (N, ...), newest first
    row: Tensor                                            # (N,) long, on the host: the row to run next

    @classmethod
    def begin(cls, x: Tensor) -> State:
        """Samples x (N, ...) before their first row."""
        return cls(x, x, tuple(torch.zeros_like(x) for _ in range(HISTORY)), torch.zeros(len(x), dtype=torch.long))

    def take(self, index: Tensor) -> State:
        """The samples at `index` (n,) on the host."""
        where = index.to(self.x.device)
        return State(self.x[where], self.base[where], tuple(h[where] for h in self.h), self.row[index])

    def put(self, index: Tensor, part: State) -> State:
        """This state with the samples at `index` (n,) replaced by those of `part`."""
        where = index.to(self.x.device)
        return State(self.x.index_copy(0, where, part.x), self.base.index_copy(0, where, part.base),
                     tuple(old.index_copy(0, where, new) for old, new in zip(self.h, part.h, strict=True)),
                     self.row.index_copy(0, index, part.row))

    def split(self) -> list[State]:
        """Each sample alone, in memory of its own."""
        tensors = (self.x, self.base, *self.h, self.row)
        alone = ([tensor[i : i + 1].clone() for tensor in tensors] for i in range(len(self.row)))
        return [State(x, base, tuple(h), row) for x, base, *h, row in alone]

    @staticmethod
    def cat(parts: list[State]) -> State:
        """The samples of all parts, in order."""
        return State(torch.cat([part.x for part in parts]), torch.cat([part.base for part in parts]),
                     tuple(torch.cat(h) for h in zip(*(part.h for part in parts), strict=True)), torch.cat([part.row for part in parts]))


def advance(state: State, x0: Tensor, slope: Tensor, weights: Tensor, z: Tensor | None) -> State:
    """One row for each of N samples.

    x0 (N, ...) is the network's answer at state.x; slope (N, 2) and weights (N, 2, COLUMNS) are the samples' rows, float64 on the host; z
    (N, ...) is fresh noise, or None when no sample asks for any. h_0 = slope_x x + slope_0 x0, then x and base become the mixes.
    """
    x, used = state.x, (weights != 0).any(dim=0)           # used (2, COLUMNS)
    if z is None and bool(used[:, -1].any()):
        raise ValueError("a row asks for noise and none was given")
    slope, weights = slope.to(x), weights.to(x)            # the one cast of the coefficients
    h = (broadcast(slope[:, 0], x) * x + broadcast(slope[:, 1], x) * x0, *state.h[:-1])

    def mix(which: int) -> Tensor:
        total = torch.zeros_like(x)
        for column, tensor in enumerate((x, state.base, *h, z)):
            if tensor is not None and used[which, column]:
                total = total + broadcast(weights[:, which, column], x) * tensor
        return total

    return State(mix(0), mix(1), h, state.row + 1)
