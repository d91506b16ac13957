"""The only place where pixels change: one row of every sample's plan.

Every sum runs over the columns in one fixed order, by separate multiplications and additions of whole tensors. So a sample's bits do not
depend on its neighbours, on its place in the batch, or on which rows these are in: adding a column of weight zero changes no bit, and a
coefficient that all samples share is the same number whether it is written once or once per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.sample.plan import COLUMNS, HISTORY, KEEP

KEPT = [value or None for value in KEEP.columns()]
ZERO = torch.zeros(())


class State(NamedTuple):
    """All that a batch of samples remembers between rows."""

    x: Tensor                                              # (N, ...) what the network sees next
    base: Tensor                                           # (N, ...)
    h: tuple[Tensor, ...]                                  # HISTORY of (N, ...), newest first
    row: Tensor                                            # (N,) long, on the host: the row to run next

    @classmethod
    def begin(cls, x: Tensor) -> State:
        """Samples x (N, ...) before their first row."""
        zeros = torch.zeros_like(x)
        return cls(x, x + zeros, (zeros,) * HISTORY, torch.zeros(len(x), dtype=torch.long))

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

    x0 (N, ...) is the network's answer at state.x; slope (N, 2) and weights (N, 2, COLUMNS) are the samples' rows, float64 on the host, or one
    row (1, ...) for all; z (N, ...) is fresh noise, or None when no sample asks for any. h_0 = slope_x x + slope_0 x0, then x and base become
    the mixes.
    """
    x = state.x
    numbers = _coefficients(torch.cat([slope, weights.flatten(1)], dim=1), x)
    of_slope, of_x, of_base = numbers[:2], numbers[2 : 2 + COLUMNS], numbers[2 + COLUMNS :]
    if z is None and (of_x[-1] is not None or of_base[-1] is not None):
        raise ValueError("a row asks for noise and none was given")
    x0 = x0 if x0.stride() == x.stride() else torch.empty_like(x).copy_(x0)  # networks may answer in another layout of memory
    h = (_mix(of_slope, (x, x0)), *state.h[:-1])
    columns = (x, state.base, *h, x if z is None else z)   # without noise the last one is not read
    kept = [0.0 if isinstance(weight, Tensor) else weight for weight in of_base] == KEPT
    return State(_mix(of_x, columns), state.base if kept else _mix(of_base, columns), h, state.row + 1)


def _coefficients(table: Tensor, x: Tensor) -> list[float | Tensor | None]:
    """The columns of a table (N, K): a number where all samples share it, (N, 1, ...) like x (N, ...) where not, None where all are 0."""
    table = table.to(x.dtype)                              # the one cast of the coefficients
    shared, first = (table == table[0]).all(dim=0).tolist(), table[0].tolist()
    if all(shared):
        return [value or None for value in first]
    tensors = table.to(x.device).reshape(*table.shape, *(1,) * (x.ndim - 1)).unbind(dim=1)
    return [(value or None) if same else tensor for same, value, tensor in zip(shared, first, tensors, strict=True)]


def _mix(weights: Sequence[float | Tensor | None], tensors: Sequence[Tensor]) -> Tensor:
    """The sum of weight * tensor over the weights that are there, in order. It is never -0, so adding 0 * tensor would change no bit."""
    total: Tensor | None = None
    for weight, tensor in zip(weights, tensors, strict=True):
        if weight is None:
            continue
        if total is not None:
            total.add_(tensor * weight)
        elif isinstance(weight, Tensor):
            total = (tensor * weight).add_(0.0)
        else:
            total = torch.add(ZERO, tensor, alpha=weight)  # 0 + weight * tensor in one pass; fused or not, it rounds once
    return torch.zeros_like(tensors[0]) if total is None else total
