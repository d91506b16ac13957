"""Frechet distance of two Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    FD = |m - m'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2)

With T the optimal map between the Gaussians, T C T = C', the derivative is dFD/dC = I - T, so a sample y moves the distance by

    f(y) = 2 (m - m')(y - m) + (y - m)' (I - T) (y - m) - tr((I - T) C)

FD of finite sets is too large, by about (a / N + b / M): the square of the mean's noise, and the concavity of the root. `plain` is that
number, for comparison with others; `unbiased` is its line in 1/N carried to infinity (Chong & Forsyth 2020, arXiv 1911.07023). Points of the
line are means over disjoint parts of the data, so their first order noise is the same and drops out of the slope.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import InkwashWarning
from inkwash.evaluate.metrics.extrapolate import Point, extrapolate
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, spread
from inkwash.evaluate.metrics.moments import Moments, check_pair, check_paired

FEW = "fewer samples than feature dimensions: covariances are singular and the bias is not linear in 1/N"


class Frechet(NamedTuple):
    """What `frechet_distance` found."""

    plain: Estimate                                        # at this N, biased upwards; its interval is of the expected FD at this N
    unbiased: Estimate                                     # extrapolated to infinitely many samples
    curve: tuple[Point, ...]                               # FD at N, N/2, N/4


def root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semidefinite matrix (D, D), in float64; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def distance(mean: Tensor, cov: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """FD of N(mean, cov) and N(mean_2, cov_2): (D,), (D, D), float64."""
    half = root(cov)
    values = torch.linalg.eigvalsh(half @ cov_2.double() @ half)
    gap = (mean.double() - mean_2.double()).square().sum() + cov.trace() + cov_2.trace() - 2 * values.clamp(min=0).sqrt().sum()
    return max(float(gap), 0.0)


def frechet(real: Moments, fake: Moments) -> float:
    """FD of two sets by their moments, without interval or correction of its bias. Warns when a set has fewer samples than dimensions."""
    if min(real.num, fake.num) <= real.total.shape[1]:
        warnings.warn(f"{min(real.num, fake.num)} samples of {real.total.shape[1]} dimensions: {FEW}", InkwashWarning, stacklevel=2)
    return distance(real.mean(), real.covariance(), fake.mean(), fake.covariance())


def transport(cov: Tensor, cov_2: Tensor) -> Tensor:
    """T with T cov T = cov_2, the linear map that carries N(0, cov) to N(0, cov_2) (Olkin & Pukelsheim 1982); pseudo-inverse where singular."""
    half = root(cov_2)
    values, vectors = torch.linalg.eigh(half @ cov.double() @ half)
    keep = values > values.max() * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(keep, values.clamp(min=torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    side = half @ vectors
    return (side * inverse) @ side.T


def influences(x: Tensor, mean: Tensor, cov: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """(N,): f(x) of the module's text for rows x (N, D) of the set with `mean` and `cov`, against the other."""
    matrix = torch.eye(len(cov), dtype=torch.float64) - transport(cov, cov_2)
    parts = []
    for rows in x.split(4096):
        y = rows.double() - mean
        parts.append(2 * y @ (mean - mean_2) + ((y @ matrix) * y).sum(1))
    values = torch.cat(parts)
    return values - values.mean()


def frechet_statistic(real: Tensor, fake: Tensor, *, paired: bool = False) -> Statistic:
    """The plain FD of features (M, D) and (N, D), with influences. `paired` says that row i of both is of one image: their influences are one
    number, in `fake`. Raises UsageError `bad_pairs`."""
    check_pair(real, fake)
    if paired:
        check_paired(real, fake)
    a, b = Moments.of(fake), Moments.of(real)
    m, c, m_2, c_2 = a.mean(), a.covariance(), b.mean(), b.covariance()
    of_fake, of_real = influences(fake, m, c, m_2, c_2), influences(real, m_2, c_2, m, c)
    if paired:
        of_fake, of_real = of_fake + of_real, of_real.new_empty(0)
    return Statistic(distance(m, c, m_2, c_2), of_fake, of_real, squared=True)


def frechet_unbiased(real: Tensor, fake: Tensor, *, paired: bool = False, seed: int = 0) -> tuple[Statistic, tuple[Point, ...]]:
    """The statistic at infinitely many samples, and the points of its line."""
    whole = frechet_statistic(real, fake, paired=paired)
    value, variance, points = extrapolate(whole, partial(frechet_statistic, paired=paired), real, fake, seed=seed, paired=paired)
    first = spread(whole.fake) + spread(whole.real)
    return Statistic(value, whole.fake, whole.real, first - variance, True), points


def too_few(real: Tensor, fake: Tensor) -> bool:
    """Whether the sets are too small for the extrapolation."""
    return min(len(real), len(fake)) <= real.shape[1]


def frechet_distance(real: Tensor, fake: Tensor, *, paired: bool = False, level: float = LEVEL, seed: int = 0) -> Frechet:
    """FD of features (M, D) of real and (N, D) of generated images, with intervals and the extrapolation of its bias; `paired` as in
    `frechet_statistic`."""
    whole, points = frechet_unbiased(real, fake, paired=paired, seed=seed)
    note = FEW if too_few(real, fake) else ""
    plain = whole._replace(value=points[0].value).estimate(level, note or "biased upwards at this N")
    return Frechet(plain, whole.estimate(level, note), points)
