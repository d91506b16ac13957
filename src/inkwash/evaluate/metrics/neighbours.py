"""Precision, recall, density and coverage from nearest neighbours in feature space.

A set's support is the union of balls around its samples, each reaching to the sample's k-th neighbour. Precision is the share of generated images
inside the real support, recall the share of real images inside the generated one (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1-2). Density
counts how many real balls hold a generated image, over k; coverage is the share of real balls that hold any (Naeem et al. 2020, arXiv 2002.09797,
eq. 3-4). Low precision means bad pictures, low recall and coverage mean missing ones. All four depend on k and on both numbers of samples.

Every sample's influence is exact: what changes when it is left out, balls that grow included. Neighbours are not a smooth function of the data,
so these influences overstate the noise of the supports, twofold and more: intervals of density and coverage and comparisons are on the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, wilson
from inkwash.evaluate.metrics.moments import check_pair

ROWS = 1024


class Neighbours(NamedTuple):
    """The four numbers."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


class Balls(NamedTuple):
    """Squared radii of the balls of a set, and how they grow when a neighbour is left out."""

    radius: Tensor                                         # (M,) to the k-th neighbour
    grown: Tensor                                          # (M,) to the next one
    within: Tensor                                         # (M, k) indices of the neighbours


class Hits(NamedTuple):
    """Points against the balls of centres."""

    balls: Tensor                                          # (N,) number of balls that hold a point
    points: Tensor                                         # (M,) number of points in a ball
    shell: Tensor                                          # (M,) points that a grown ball holds in addition
    nearest: Tensor                                        # (M,) index of the point nearest to a centre
    change: Tensor                                         # (M,) how many points get inside minus outside when a centre is left out


def squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (m, n) of rows."""
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T).clamp(min=0)


def balls(x: Tensor, k: int) -> Balls:
    """Of a set (M, D)."""
    radius, grown, within = [], [], []
    for start in range(0, len(x), ROWS):
        d = squares(x[start:start + ROWS], x)
        d.diagonal(start).fill_(torch.inf)
        near, index = d.topk(k + 1, largest=False)
        radius.append(near[:, k - 1])
        grown.append(near[:, k])
        within.append(index[:, :k])
    return Balls(torch.cat(radius), torch.cat(grown), torch.cat(within))


def hits(centres: Tensor, of: Balls, points: Tensor) -> Hits:
    """Which points (N, D) the balls of centres (M, D) hold."""
    m = len(centres)
    held, in_ball, in_shell, change = [], torch.zeros(m), torch.zeros(m), torch.zeros(m)
    least, nearest = torch.full((m,), torch.inf, dtype=points.dtype), torch.zeros(m, dtype=torch.long)
    for start in range(0, len(points), ROWS):
        d = squares(points[start:start + ROWS], centres)
        inside, grown = d <= of.radius, d <= of.grown
        count = inside.sum(1, dtype=torch.int32)
        held.append(count)
        hit = inside.sum(0, dtype=torch.int32)
        in_ball += hit
        in_shell += grown.sum(0, dtype=torch.int32) - hit
        low, index = d.min(0)
        nearest = torch.where(low < least, index + start, nearest)
        least = torch.minimum(least, low)
        few = (count <= 1).nonzero().flatten()
        j, i = (grown[few] & ~inside[few]).nonzero(as_tuple=True)
        j = few[j]
        pairs = (j[:, None] * m + of.within[i]).flatten().unique()                            # point j enters a ball when this centre goes
        only = (count == 1).nonzero().flatten()
        alone = only * m + inside[only].int().argmax(1)                                       # point j leaves when its only centre goes
        change -= torch.bincount(alone[~torch.isin(alone, pairs)] % m, minlength=m)
        change += torch.bincount(pairs[count[pairs // m] == 0] % m, minlength=m)
    return Hits(torch.cat(held), in_ball, in_shell, nearest, change)


def _support(found: Hits) -> tuple[float, Tensor, Tensor]:
    """Share of points inside any ball; influences of points and of centres."""
    inside = (found.balls > 0).double()
    share, m = float(inside.mean()), len(found.points)
    centres = -(m - 1) * found.change.double() / len(inside)
    return share, inside - share, centres - centres.mean()


def _density(found: Hits, of: Balls, k: int) -> tuple[float, Tensor, Tensor]:
    each, m = found.balls.double() / k, len(found.points)
    left_out = -found.points.double()
    left_out.index_add_(0, of.within.flatten(), found.shell.double().repeat_interleave(k))
    centres = -(m - 1) * left_out / (k * len(each))
    return float(each.mean()), each - each.mean(), centres - centres.mean()


def _coverage(found: Hits, of: Balls, k: int) -> tuple[float, Tensor, Tensor]:
    held, m, n = (found.points > 0).double(), len(found.points), len(found.balls)
    share = float(held.mean())
    gained = ((found.points == 0) & (found.shell > 0)).double()
    without = held.sum() - held
    without.index_add_(0, of.within.flatten(), gained.repeat_interleave(k))
    centres = (m - 1) * (share - without / (m - 1))
    points = torch.bincount(found.nearest[found.points == 1], minlength=n).double() * (n - 1) / m
    return share, points - points.mean(), centres - centres.mean()


def neighbour_statistics(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, Statistic]:
    """The four numbers with influences, by name. Raises UsageError `bad_neighbours` for k < 1 or sets of k + 1 samples or fewer."""
    check_pair(real, fake)
    if k < 1 or min(len(real), len(fake)) < k + 2:
        raise UsageError("bad_neighbours", f"k is {k} for {len(real)} and {len(fake)} samples; k is at least 1, and each set has at least k + 2")
    centre = real.double().mean(0)
    x, y = ((features.double() - centre).float() for features in (real, fake))
    of_real, of_fake = balls(x, k), balls(y, k)
    forth, back = hits(x, of_real, y), hits(y, of_fake, x)
    precision, a, b = _support(forth)
    recall, c, d = _support(back)
    return {"precision": Statistic(precision, a, b, trials=len(y)), "recall": Statistic(recall, d, c, trials=len(x)),
            "density": Statistic(*_density(forth, of_real, k)), "coverage": Statistic(*_coverage(forth, of_real, k))}


def share_estimate(found: Statistic, num: int, level: float = LEVEL, note: str = "") -> Estimate:
    """Wilson's interval of a share. Precision and recall count samples that are independent given the other set, so theirs is the interval of the
    share in the whole population, *given* that set. Coverage takes the number of independent samples that would give its variance."""
    share, variance = found.value, found.variance
    if found.trials:
        return Estimate(share, *wilson(share, found.trials, level), found.trials, level, note)
    effective = min(share * (1 - share) / variance, num) if variance > 0 and 0 < share < 1 else num
    return Estimate(share, *wilson(share, effective, level), num, level, note)


def estimates(found: Mapping[str, Statistic], k: int, level: float = LEVEL) -> dict[str, Estimate]:
    """Intervals for what `neighbour_statistics` found. Precision and recall are given the other set's support (see `share_estimate`), density and
    coverage are means over both sets at these sizes. A density of zero is no proof of zero: its interval ends where Wilson's for the share
    of samples in a ball ends, were each of them in all balls."""
    density = found["density"]
    num, num_real = len(density.fake), len(density.real)
    note = f"k = {k}, {num_real} real pictures"
    dense = density.estimate(level, note)
    return {"precision": share_estimate(found["precision"], num, level, note), "recall": share_estimate(found["recall"], num_real, level, note),
            "density": dense if density.value else dense._replace(high=wilson(0, num, level)[1] * num_real / k),
            "coverage": share_estimate(found["coverage"], num_real, level, note)}


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5, *, level: float = LEVEL) -> Neighbours:
    """The four numbers of features (M, D) of real and (N, D) of generated images. Raises UsageError `bad_neighbours`."""
    return Neighbours(**estimates(neighbour_statistics(real, fake, k), k, level))
