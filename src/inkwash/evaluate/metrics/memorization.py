"""Copies of training images among generated ones.

A copy lies much nearer to one training image than to the other images around it: the ratio of the distance to the nearest training image and the
mean distance to the `k` nearest is small (Carlini et al. 2023, arXiv 2301.13188, eq. 1). How small happens by chance too is measured on images
that were not trained on: the threshold is the rank floor(rate (n + 1)) of their n ratios, so a fresh image is flagged with a probability of at
most `rate` (split conformal prediction, Vovk et al. 2005). Without such images the training images stand in, each against the others.

The threshold is itself a sample quantile, as uncertain as a share of the n fresh images. So what is memorized is the share of flagged images less
the share of fresh images under the threshold, with Newcombe's interval of a difference (1998). That the rate is kept is measured too, on each half
of the fresh images with the threshold of the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, proportion
from inkwash.evaluate.metrics.moments import check_pair
from inkwash.evaluate.metrics.neighbours import squares

ROWS = 1024


class Copy(NamedTuple):
    """A generated image and the training image next to it, by index."""

    fake: int
    train: int
    ratio: float
    distance: float


class Memorization(NamedTuple):
    """What `memorization` found."""

    share: Estimate                                        # of generated images under the threshold
    false_positives: Estimate                              # the same share of fresh images, under thresholds that they did not set
    excess: Estimate                                       # share - that of the fresh images that set the threshold
    threshold: float                                       # of the ratio
    ratio: Tensor                                          # (N,) float64
    flagged: Tensor                                        # (N,) bool
    copies: tuple[Copy, ...]                               # flagged images, smallest ratio first


def nearest(x: Tensor, train: Tensor, k: int, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Distances (N, k) float64, near to far, and indices, of the `k` nearest rows of train (M, D); `same` leaves out the row itself.

    Neighbours are found in float32 and measured again in float64, so that a copy's distance of zero is one.
    """
    centre = train.double().mean(0)
    a, b = ((features.double() - centre).float() for features in (x, train))
    distances, indices = [], []
    for start in range(0, len(a), ROWS):
        d = squares(a[start:start + ROWS], b)
        if same:
            d.diagonal(start).fill_(torch.inf)
        index = d.topk(k, largest=False).indices
        exact = torch.stack([(train[column].double() - x[start:start + ROWS].double()).norm(dim=1) for column in index.T], 1)
        exact, order = exact.sort(dim=1, stable=True)
        distances.append(exact)
        indices.append(index.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def ratios(distances: Tensor) -> Tensor:
    """(N,): nearest distance over the mean of all k (N, k); 0 when all are 0."""
    return distances[:, 0] / distances.mean(1).clamp(min=torch.finfo(torch.float64).tiny)


def threshold(fresh: Tensor, rate: float) -> tuple[float, int]:
    """The ratio below which a fresh image falls with probability rank / (n + 1) <= rate, and the rank.

    Raises UsageError `too_few` for fewer than 1 / rate - 1 images.
    """
    rank = math.floor(rate * (len(fresh) + 1) + 1e-9)
    if rank < 1:
        raise UsageError("too_few", f"{len(fresh)} images not trained on cannot show a rate of {rate:g}; give at least {math.ceil(1 / rate) - 1}")
    return float(fresh.sort().values[rank - 1]), rank


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent shares with Wilson's intervals (Newcombe 1998, method 10)."""
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(gap, low, high, a.num, a.level)


def memorization(fake: Tensor, train: Tensor, held_out: Tensor | None = None, *, k: int = 50, rate: float = 0.01, level: float = LEVEL,
                 seed: int = 0) -> Memorization:
    """Of features (N, D) of generated, (M, D) of training and (H, D) of held out images of the same kind.

    `rate` is the share of fresh images that may be flagged by chance; at least 2 / rate of them are needed to set the threshold and to measure
    what it does. Raises UsageError `too_few`, `bad_rate`, `bad_neighbours`.
    """
    check_pair(train, fake, 2)
    if not 0 < rate < 0.5:
        raise UsageError("bad_rate", f"the rate of false alarms is {rate}; it lies in 0..0.5, for example 0.01")
    if not 2 <= k < len(train):
        raise UsageError("bad_neighbours", f"k is {k} for {len(train)} training images; it is at least 2 and less than their number")
    if held_out is None:
        fresh, note = ratios(nearest(train, train, k, same=True)[0]), "calibrated on training images, each against the others"
    else:
        check_pair(train, held_out, 2)
        fresh, note = ratios(nearest(held_out, train, k)[0]), "calibrated on held out images"
    distances, indices = nearest(fake, train, k)
    ratio, (limit, rank) = ratios(distances), threshold(fresh, rate)
    flagged = ratio < limit
    halves = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    false = sum(int((fresh[test] < threshold(fresh[rest], rate)[0]).sum()) for test, rest in (halves, halves[::-1]))
    share, false_positives = proportion(int(flagged.sum()), len(fake), level, note), proportion(false, len(fresh), level, note)
    excess = difference(share, proportion(rank, len(fresh), level))
    order = [int(i) for i in ratio.argsort() if flagged[i]]
    copies = tuple(Copy(i, int(indices[i, 0]), float(ratio[i]), float(distances[i, 0])) for i in order)
    return Memorization(share, false_positives, excess, limit, ratio, flagged, copies)
