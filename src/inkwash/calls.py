"""Shape classes: how many rows a network call may have, and how pending rows are cut into calls.

Kernels may sum in another order when a batch has another size, so a size is used only where a self-test (selftest.py) found that it gives a
row the bits of the smallest certified call; which sizes these are differs between shapes of x. Among them the choice is free: it never
changes a bit, only time. So it is made by measurement: of all ways to cut n rows into certified calls, the last one filled up where it must
be, the one whose calls take the least time by the seconds that the self-test saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache


def cut(pending: int, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Sizes of the calls, largest first, for `pending` rows; `seconds` of one call by its size. They hold at least `pending` rows."""
    return _cut(pending, tuple(sorted(seconds.items())))


@lru_cache(maxsize=4096)
def _cut(pending: int, seconds: tuple[tuple[int, float], ...]) -> tuple[int, ...]:
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]                       # of 0, 1, 2, .. rows: time, and the calls
    for count in range(1, pending + 1):
        ways = ((best[max(0, count - size)], size, taken) for size, taken in seconds)
        best.append(min((before + taken, (*calls, size)) for (before, calls), size, taken in ways))
    return tuple(sorted(best[pending][1], reverse=True))
