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
    best = [(0.0, 0)]                                                             # of 0, 1, 2, .. rows: time, and the last call
    for count in range(1, pending + 1):
        best.append(min((best[max(0, count - size)][0] + taken, size) for size, taken in seconds))
    calls = []
    while pending > 0:
        calls.append(best[pending][1])
        pending -= calls[-1]
    return tuple(sorted(calls, reverse=True))
