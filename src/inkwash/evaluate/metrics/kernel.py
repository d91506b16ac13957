"""Kernel distance: squared maximum mean discrepancy of two samples, without bias (Gretton et al. 2012, JMLR 13, eq. 3).

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

With k(x, y) = (x'y / D + 1)^3 this is KID (Binkowski et al. 2018, arXiv 1801.01401). The estimate leaves out i = j, so it has the right mean at
every N and may be negative. Its influence on one sample is 2 (mean k to its own set - mean k to the other), known from the row means of the
three kernel matrices; the second order noise, all that is left when both sets have one distribution, comes from their centred squares.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic
from inkwash.evaluate.metrics.moments import check_pair, check_paired

TILE = 1024                                                # rows of x by 4 TILE rows of y are in memory at once


class Kernel(Protocol):
    """A function of x'y (m, n), |x|^2 (m, 1) and |y|^2 (1, n) that gives k(x, y) - 1 (m, n): a constant cancels in MMD, but not its rounding."""

    def __call__(self, dot: Tensor, x2: Tensor, y2: Tensor, /) -> Tensor: ...


class Cubic(NamedTuple):
    """k(x, y) = (x'y / dim + 1)^3."""

    dim: int

    def __call__(self, dot: Tensor, x2: Tensor, y2: Tensor, /) -> Tensor:
        u = dot / self.dim
        return (u + 3).mul_(u).add_(3).mul_(u)                                                 # u^3 + 3 u^2 + 3 u


class Bell(NamedTuple):
    """k(x, y) = exp(-|x - y|^2 / (2 sigma^2))."""

    sigma: float

    def __call__(self, dot: Tensor, x2: Tensor, y2: Tensor, /) -> Tensor:
        return dot.mul(2).sub_(x2).sub_(y2).clamp_(max=0).div_(2 * self.sigma**2).expm1_()


class Means(NamedTuple):
    """Of one matrix of k - 1."""

    rows: Tensor                                           # (m,) float64
    columns: Tensor                                        # (n,) float64
    square: float                                          # mean of the square

    @property
    def noise(self) -> float:
        """Mean square of k - row - column + mean: what is not explained by either sample alone."""
        mean = float(self.rows.mean())
        return max(self.square - float(self.rows.square().mean()) - float(self.columns.square().mean()) + mean**2, 0.0)


def means(x: Tensor, y: Tensor, kernel: Kernel, same: bool = False) -> Means:
    """Of k - 1 over x (m, D) and y (n, D), in tiles of the features' own precision, summed in float64.

    `same` says that y is x: the diagonal is left out, and only one half is computed.
    """
    m, n = len(x), len(y)
    x2, y2 = x.square().sum(1)[:, None], y.square().sum(1)[None]
    rows, columns, square = torch.zeros(m, dtype=torch.float64), torch.zeros(n, dtype=torch.float64), 0.0
    for top in range(0, m, TILE):
        down = slice(top, top + TILE)
        for left in range(top if same else 0, n, 4 * TILE):
            across = slice(left, left + 4 * TILE)
            k = kernel(x[down] @ y[across].T, x2[down], y2[:, across])
            if same and left == top:
                k.triu_(1)
            rows[down] += k.sum(1, dtype=torch.float64)
            columns[across] += k.sum(0, dtype=torch.float64)
            square += float(k.square().sum(dtype=torch.float64))
    if same:
        rows = columns = rows + columns
        square *= 2
    less = 1 if same else 0
    return Means(rows / (n - less), columns / (m - less), square / (m * (n - less)))


def paired_means(x: Tensor, y: Tensor, kernel: Kernel) -> Means:
    """Of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j) over i != j, for pairs of rows of x and y, both (n, D)."""
    n = len(x)
    x2, y2 = x.square().sum(1), y.square().sum(1)
    rows, square = torch.zeros(n, dtype=torch.float64), 0.0
    for top in range(0, n, TILE):
        down = slice(top, top + TILE)
        k = torch.zeros(len(x[down]), n, dtype=torch.float64)
        for sign, a, a2, b, b2 in ((1, x, x2, x, x2), (1, y, y2, y, y2), (-1, x, x2, y, y2), (-1, y, y2, x, x2)):
            k += sign * kernel(a[down] @ b.T, a2[down, None], b2[None]).double()
        k.diagonal(top).zero_()
        rows[down] = k.sum(1)
        square += float(k.square().sum())
    return Means(rows / (n - 1), rows / (n - 1), square / (n * (n - 1)))


def mmd_statistic(real: Tensor, fake: Tensor, kernel: Kernel, *, paired: bool = False) -> Statistic:
    """Unbiased MMD^2 of features (M, D) and (N, D), with influences. `paired` says that row i of both is of one image: its pair with itself is left
    out (Gretton et al. 2012, eq. 4), and the influences of both are one number, in `fake`. Raises UsageError `bad_pairs`."""
    check_pair(real, fake)
    if paired:
        check_paired(real, fake)
        both = paired_means(real, fake, kernel)
        mean = float(both.rows.mean())
        return Statistic(mean, 2 * (both.rows - mean), both.rows.new_empty(0), 2 * both.noise / len(real)**2, True)
    xx, yy, xy = means(real, real, kernel, True), means(fake, fake, kernel, True), means(real, fake, kernel)
    m, n = len(real), len(fake)
    value = float(xx.rows.mean() + yy.rows.mean() - 2 * xy.rows.mean())
    to_real, to_fake = 2 * (xx.rows - xy.rows), 2 * (yy.rows - xy.columns)
    surplus = 2 * xx.noise / m**2 + 2 * yy.noise / n**2 + 4 * xy.noise / (m * n)
    return Statistic(value, to_fake - to_fake.mean(), to_real - to_real.mean(), surplus, True)


def kernel_statistic(real: Tensor, fake: Tensor, *, paired: bool = False) -> Statistic:
    """KID of all samples, with influences; `paired` as in `mmd_statistic`."""
    check_pair(real, fake)
    return mmd_statistic(real, fake, Cubic(real.shape[1]), paired=paired)


def kernel_distance(real: Tensor, fake: Tensor, *, level: float = LEVEL) -> Estimate:
    """KID of features (M, D) of real and (N, D) of generated images: every pair is used, not subsets."""
    return kernel_statistic(real, fake).estimate(level)


class Subsets(NamedTuple):
    """KID as others report it: mean and standard deviation over random subsets. The deviation is of one subset, not of the mean."""

    mean: float
    std: float
    size: int
    num: int


def kernel_distance_subsets(real: Tensor, fake: Tensor, *, size: int = 1000, num: int = 100, seed: int = 0) -> Subsets:
    """KID over `num` random subsets of `size` samples each. Raises UsageError `too_few` when a set is smaller than `size`."""
    check_pair(real, fake, size)
    if size < 2 or num < 2:
        raise UsageError("too_few", f"subsets need at least 2 samples and 2 repetitions, got size {size} and {num}")
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num):
        i, j = (torch.randperm(len(x), generator=rng)[:size] for x in (real, fake))
        values.append(kernel_statistic(real[i], fake[j]).value)
    drawn = torch.tensor(values, dtype=torch.float64)
    return Subsets(float(drawn.mean()), float(drawn.std(correction=0)), size, num)
