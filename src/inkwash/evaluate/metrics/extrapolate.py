"""Bias of order 1/N, measured and taken away.

A smooth statistic of N samples has the expectation theta + c / N + d / N^2 + ... Cut both sets at random into k disjoint parts; the mean of
the statistic over the parts has the expectation theta + c k / N + ..., and, to first order, the same noise as the whole, because every sample
takes part once. The line through k = 1, 2, 4 reaches theta at k = 0: Chong & Forsyth's extrapolation (2020, arXiv 1911.07023) with parts
that share no samples. Several cuts are averaged.

The variance of influences is too large by c' / N in the same way, and half of that is real: the second order noise. So the variance used is
the mean of the measured and the extrapolated one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.evaluate.metrics.interval import Statistic, spread

PARTS = (2, 4)
CUTS = 2


class Point(NamedTuple):
    """The statistic at `num` generated samples, the mean over `parts` disjoint sets of that size."""

    num: int
    parts: int
    value: float


def cut(num: int, parts: int, seed: int) -> list[Tensor]:
    """Indices 0..num-1 in `parts` random disjoint sets."""
    return list(torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tensor_split(parts))


def extrapolate(whole: Statistic, statistic: Callable[[Tensor, Tensor], Statistic], real: Tensor, fake: Tensor, *, parts: tuple[int, ...] = PARTS,
                cuts: int = CUTS, seed: int = 0, paired: bool = False) -> tuple[float, float, tuple[Point, ...]]:
    """The value at infinitely many samples, its variance, and the points of the line, for `whole` = statistic(real, fake). `paired` sets are cut
    alike, so that pairs stay together."""
    points = [Point(len(fake), 1, whole.value)]
    scaled = [(spread(whole.fake) + spread(whole.real))]
    for k in parts:
        values, spreads = [], []
        for repeat in range(cuts):
            sides = zip(cut(len(real), k, 2 * seed + 1009 * repeat), cut(len(fake), k, 2 * seed + (0 if paired else 1) + 1009 * repeat))
            for i, j in sides:
                part = statistic(real[i], fake[j])
                values.append(part.value)
                spreads.append((spread(part.fake) + spread(part.real)) / k)
        points.append(Point(len(fake) // k, k, sum(values) / len(values)))
        scaled.append(sum(spreads) / len(spreads))
    at = [float(k) for k in (1, *parts)]
    value = intercept(at, [point.value for point in points])
    first = max(intercept(at, scaled), 0.0)
    return value, (first + scaled[0]) / 2, tuple(points)


def intercept(x: list[float], y: list[float]) -> float:
    """Where the least squares line through (x, y) meets x = 0."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)
    return mean_y - slope * mean_x
