"""Precision, recall, density and coverage from nearest neighbours in feature space.

A set's support is the union of balls around its samples, each reaching to the sample's k-th neighbour. Precision is the share of generated images
inside the real support, recall the share of real images inside the generated one (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1-2). Density
counts how many real balls hold a generated image, over k; coverage is the share of real balls that hold any (Naeem et al. 2020, arXiv 2002.09797,
eq. 3-4). Low precision means bad pictures, low recall and coverage mean missing ones. All four depend on k and on both numbers of samples.

Given the real balls, precision and density are means over generated images, independent ones; recall is one over real images, given the other
support. Coverage is a mean of nothing independent: neighbouring balls share what they hold. Balls scale with the sets, so a half of both sets
behaves like the whole: the variance of the mean over disjoint parts, averaged over many cuts, is that of the whole (Politis & Romano 1994, with
parts that share no samples). Leaving samples out one by one overstates it, twofold and more. Recall gets it too, for comparisons of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.extrapolate import cut
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, mean_interval, wilson
from inkwash.evaluate.metrics.moments import check_pair

ROWS = 1024
PART = 1000                                                # samples of the larger set in a part, where there are so many
LEAST_PART = 100                                           # of the smaller set, unless there are two parts
DEGREES = 60                                               # of freedom of the variance: cuts x (parts - 1)


class Neighbours(NamedTuple):
    """The four numbers."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (m, n) of rows."""
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T).clamp(min=0)


def radii(x: Tensor, k: int) -> Tensor:
    """Squared radii (M,) of the balls of a set (M, D): the distance to the k-th neighbour."""
    found = []
    for start in range(0, len(x), ROWS):
        d = squares(x[start:start + ROWS], x)
        d.diagonal(start).fill_(torch.inf)
        found.append(d.topk(k, largest=False).values[:, -1])
    return torch.cat(found)


def held(centres: Tensor, radius: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls of centres (M, D) hold each of the points (N, D), and how many points are in each ball: (N,), (M,), float64."""
    of_points, of_balls = [], torch.zeros(len(centres), dtype=torch.float64)
    for start in range(0, len(points), ROWS):
        inside = squares(points[start:start + ROWS], centres) <= radius
        of_points.append(inside.sum(1).double())
        of_balls += inside.sum(0)
    return torch.cat(of_points), of_balls


def in_parts(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Recall and coverage, each (cuts, parts), of disjoint parts of real (M, D) and generated features (N, D), cut at random, the same for every
    model that is measured against as many samples."""
    parts = max(2, min(math.ceil(max(len(x), len(y)) / PART), min(len(x), len(y)) // LEAST_PART))
    values = []
    for seed in range(math.ceil(DEGREES / (parts - 1))):
        for i, j in zip(cut(len(x), parts, 2 * seed), cut(len(y), parts, 2 * seed + 1)):
            a, b = x[i], y[j]
            values.append([float((of > 0).double().mean()) for of in (held(b, radii(b, k), a)[0], held(a, radii(a, k), b)[1])])
    recall, coverage = torch.tensor(values, dtype=torch.float64).T.unflatten(1, (-1, parts))
    return recall, coverage


def neighbour_statistics(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, Statistic]:
    """The four numbers by name, with what each sample adds and, for recall and coverage, their values on parts of the sets. Raises UsageError
    `bad_neighbours` for k < 1 or sets of 2 k + 1 samples or fewer."""
    check_pair(real, fake)
    if k < 1 or min(len(real), len(fake)) < 2 * (k + 1):
        raise UsageError("bad_neighbours", f"k is {k} for {len(real)} and {len(fake)} samples; k is at least 1, and each set has at least 2 k + 2")
    centre = real.double().mean(0)
    x, y = ((features.double() - centre).float() for features in (real, fake))
    of_fake, of_ball = held(x, radii(x, k), y)
    of_real, _ = held(y, radii(y, k), x)
    recall, coverage = in_parts(x, y, k)
    given_real, given_fake = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)

    def share(hit: Tensor) -> tuple[float, Tensor]:
        return float(hit.double().mean()), hit.double() - hit.double().mean()

    value, terms = share(of_fake > 0)
    found = {"precision": Statistic(value, terms, given_real, trials=len(y))}
    value, terms = share(of_real > 0)
    found["recall"] = Statistic(value, given_fake, terms, trials=len(x), parts=recall)
    value, terms = share(of_fake / k)
    found["density"] = Statistic(value, terms, given_real)
    value, terms = share(of_ball > 0)
    found["coverage"] = Statistic(value, given_fake, terms, parts=coverage)
    return found


def share_estimate(found: Statistic, num: int, level: float = LEVEL, note: str = "") -> Estimate:
    """Wilson's interval of a share. Precision and recall count samples that are independent given the other set, so theirs is the interval of the
    share in the whole population, *given* that set. Coverage takes the number of independent samples that would give its variance."""
    share, variance = found.value, found.variance
    if found.trials:
        return Estimate(share, *wilson(share, found.trials, level), found.trials, level, note)
    effective = min(share * (1 - share) / variance, num) if variance > 0 and 0 < share < 1 else num
    return Estimate(share, *wilson(share, effective, level), num, level, note)


def estimates(found: Mapping[str, Statistic], k: int, level: float = LEVEL) -> dict[str, Estimate]:
    """Intervals for what `neighbour_statistics` found. Precision and density are given the real set, recall is given the generated one; coverage is
    a mean over both sets at these sizes. A density of zero is no proof of zero: its interval ends where Wilson's for the share of samples in a
    ball ends, were each of them in all balls."""
    density = found["density"]
    num, num_real = len(density.fake), len(density.real)
    note = f"k = {k}, {num_real} real pictures"
    dense = mean_interval(density.fake + density.value, level, note)
    return {"precision": share_estimate(found["precision"], num, level, note), "recall": share_estimate(found["recall"], num_real, level, note),
            "density": dense if density.value else dense._replace(high=wilson(0, num, level)[1] * num_real / k),
            "coverage": share_estimate(found["coverage"], num_real, level, note)}


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5, *, level: float = LEVEL) -> Neighbours:
    """The four numbers of features (M, D) of real and (N, D) of generated images. Raises UsageError `bad_neighbours`."""
    return Neighbours(**estimates(neighbour_statistics(real, fake, k), k, level))
