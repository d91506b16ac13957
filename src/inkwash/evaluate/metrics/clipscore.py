"""How well images fit their captions: the cosine of their embeddings, in percent (Hessel et al. 2021, arXiv 2104.08718, without its factor 2.5).

A cosine alone says little, since every encoder has its own floor. The floor is measured: the mean over all wrong pairs of the same images and
captions. Under the hypothesis that captions do not matter, every pairing pi is as likely as the true one; sum_i s(i, pi(i)) then has the variance
sum_ij d_ij^2 / (N - 1), d = s - row means - column means + mean (Hoeffding 1951), and `sigmas` is the distance from it in standard deviations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.cmmd import check_unit
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, mean_interval
from inkwash.evaluate.metrics.moments import check_pair

ROWS = 1024


class ClipScore(NamedTuple):
    """What `clip_score` found; cosines times 100."""

    score: Estimate                                        # mean over images with their own captions
    shuffled: float                                        # mean over all wrong pairs
    gap: Estimate                                          # score - shuffled
    sigmas: float                                          # of the gap, from zero, if captions did not matter
    each: Tensor                                           # (N,) float64 score of every image


def clip_statistic(image: Tensor, text: Tensor) -> Statistic:
    """The gap between matched and wrong pairs, with influences (in `fake`; the captions belong to the images)."""
    own, rows, columns, _ = _scores(image, text)
    n = len(own)
    wrong = (rows.sum() - own.sum()) / (n * (n - 1))
    outer = (rows + columns - 2 * own) / (n - 1)                                              # mean of a sample's wrong pairs, in both ways
    influence = own - outer
    return Statistic(float(own.mean() - wrong), influence - influence.mean(), influence.new_empty(0))


def _scores(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Own pairs (N,), sums of rows (N,), sums of columns (N,), sum of squares."""
    check_pair(image, text)
    if len(image) != len(text):
        raise UsageError("bad_pairs", f"{len(image)} images and {len(text)} captions; every image has one caption")
    check_unit("image embeddings", image)
    check_unit("caption embeddings", text)
    rows, columns, square = [], torch.zeros(len(text), dtype=torch.float64), 0.0
    for block in image.split(ROWS):
        s = 100 * block @ text.T
        rows.append(s.sum(1, dtype=torch.float64))
        columns += s.sum(0, dtype=torch.float64)
        square += float(s.square().sum(dtype=torch.float64))
    return 100 * (image.double() * text.double()).sum(1), torch.cat(rows), columns, square


def clip_score(image: Tensor, text: Tensor, *, level: float = LEVEL) -> ClipScore:
    """Of unit embeddings of N images and of their captions, both (N, D). Equal captions of different images make the gap smaller than it is.

    Raises UsageError `bad_pairs` and `not_unit`.
    """
    own, rows, columns, square = _scores(image, text)
    n = len(own)
    mean = float(rows.sum()) / n**2
    centred = square - float(rows.square().sum()) / n - float(columns.square().sum()) / n + (n * mean) ** 2
    deviation = math.sqrt(max(centred, 0.0) / (n - 1))
    gap = clip_statistic(image, text)
    sigmas = (float(own.sum()) - n * mean) / deviation if deviation > 0 else 0.0
    return ClipScore(mean_interval(own, level), float(own.mean()) - gap.value, gap.estimate(level), sigmas, own)
