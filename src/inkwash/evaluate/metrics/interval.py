"""A number, how far it may be off, and how many samples stand behind it.

A statistic theta of two samples changes, to first order, by the mean of an *influence* per sample (von Mises 1947; Hampel 1974):

    theta_hat - theta = mean_j f(fake_j) + mean_i g(real_i) + ...,    Var = Var(f) / N + Var(g) / M

so one pass gives the standard error of any smooth metric, and two models on the same prompts are compared by the differences of their
influences. Estimated influences carry the noise of the second order term once too often: at a null, where f and g vanish, Var is twice the truth.
`surplus` is the part to take off. Proportions get Wilson's interval (1927), with the number of samples that gives the same variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError

LEVEL = 0.95


class Estimate(NamedTuple):
    """A measured number with its interval: in `level` of all repetitions the interval holds the truth."""

    value: float
    low: float
    high: float
    num: int                                               # samples behind it: the smaller set, where there are two
    level: float = LEVEL
    note: str = ""                                         # what to know before trusting it

    def text(self, digits: int = 4) -> str:
        """`0.1234 [0.1100, 0.1400] (95 %, N = 5000)`, and the note."""
        body = f"{self.value:.{digits}g} [{self.low:.{digits}g}, {self.high:.{digits}g}] ({100 * self.level:g} %, N = {self.num})"
        return f"{body}; {self.note}" if self.note else body

    def holds(self, truth: float) -> bool:
        return self.low <= truth <= self.high


class Statistic(NamedTuple):
    """A metric's value and the influence of every sample on it."""

    value: float
    fake: Tensor                                           # (N,) float64, mean 0
    real: Tensor                                           # (M,) float64, mean 0; empty where the metric has one set
    surplus: float = 0.0                                   # what the influences count twice in the variance
    squared: bool = False                                  # the truth is a squared distance: zero or more, and skewed when near zero
    trials: int = 0                                        # the value is a share among so many samples, independent given the other set
    parts: Tensor = torch.empty(0, 0)                      # (cuts, parts) the value on disjoint parts of both sets, where samples are not independent

    @property
    def num(self) -> int:
        return min(len(self.fake), len(self.real)) if len(self.real) else len(self.fake)

    @property
    def variance(self) -> float:
        """Of the value; at least a quarter of what the influences say. With parts it is that of their mean, and at least what the samples say."""
        first = spread(self.fake) + spread(self.real)
        if self.parts.numel():
            return max(first, float(self.parts.var(1).mean()) / self.parts.shape[1])
        return max(first - self.surplus, first / 4)

    @property
    def error(self) -> float:
        """Standard error of the value."""
        return math.sqrt(self.variance)

    def estimate(self, level: float = LEVEL, note: str = "") -> Estimate:
        """value +- z error. For a squared distance v the interval is even in sqrt(v), as the noise is: both ends move up by
        z^2 V / (4 v), V the variance of the influences, and a value below zero has the upper end of zero. It begins at zero while v is within z
        errors of a zero truth, whose variance is the surplus, or V / 4 where that is more: at zero influences are noise, and would move it away."""
        z, width = normal_quantile(level), normal_quantile(level) * self.error
        if not self.squared:
            return Estimate(self.value, self.value - width, self.value + width, self.num, level, note)
        seen = spread(self.fake) + spread(self.real)
        shift = min(z**2 * seen / (4 * self.value), width / 2) if self.value > 0 else 0.0
        apart = self.value > z * math.sqrt(max(self.surplus, seen / 4))
        low = max(self.value - width + shift, 0.0) if apart else 0.0
        return Estimate(self.value, low, max(self.value, 0.0) + width + shift, self.num, level, note)


def spread(influence: Tensor) -> float:
    """Variance of the mean of `influence` (N,); 0 for none."""
    return float(influence.double().var()) / len(influence) if len(influence) > 1 else 0.0


def check_level(level: float) -> None:
    if not 0.5 <= level < 1:
        raise UsageError("bad_level", f"the level of an interval is {level}; it lies in 0.5..1, for example 0.95")


def normal_quantile(level: float) -> float:
    """z with P(|Z| < z) = level for Z ~ N(0, 1)."""
    check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2)


def student_quantile(level: float, degrees: int) -> float:
    """t with P(|T| < t) = level for Student's T with `degrees` >= 1 of freedom, by bisection of the exact distribution."""
    if degrees < 1:
        raise UsageError("bad_level", f"Student's distribution needs at least 1 degree of freedom, got {degrees}")
    z = normal_quantile(level)
    if degrees > 1000:
        return z + (z**3 + z) / (4 * degrees)
    low, high = z, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _student_within(middle, degrees) < level else (low, middle)
    return math.sqrt(low * high)


def _student_within(t: float, degrees: int) -> float:
    """P(|T| < t), the finite sums of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine, total = math.cos(theta), 0.0
    term = cosine if degrees % 2 else 1.0
    for k in range(2 + degrees % 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if degrees % 2:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def mean_interval(values: Tensor, level: float = LEVEL, note: str = "") -> Estimate:
    """Mean of values (N,) with Student's interval. Raises UsageError `too_few` below 2 values."""
    values = values.double().flatten()
    if len(values) < 2:
        raise UsageError("too_few", f"an interval of a mean needs at least 2 values, got {len(values)}")
    mean, width = float(values.mean()), student_quantile(level, len(values) - 1) * math.sqrt(spread(values))
    return Estimate(mean, mean - width, mean + width, len(values), level, note)


def score_interval(values: Tensor, level: float = LEVEL, note: str = "") -> Estimate:
    """Mean of scores in 0..1 (N,): Student's interval, within 0..1. Equal scores have no variance, but that of others can be hidden still: they get
    Wilson's, as wide as that of any scores with this mean. Raises UsageError `too_few` below 2 values."""
    found = mean_interval(values, level, note)
    if found.high - found.low > 1e-12:
        return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))
    low, high = wilson(found.value, found.num, level)
    return found._replace(low=low, high=high)


def wilson(share: float, num: float, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the interval of a proportion seen in `num` independent trials, real-valued for an effective number (Wilson 1927)."""
    z2 = normal_quantile(level) ** 2
    centre, scale = (share + z2 / (2 * num)), 1 + z2 / num
    half = math.sqrt(z2 * (share * (1 - share) / num + z2 / (4 * num**2)))
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def proportion(hits: int, num: int, level: float = LEVEL, note: str = "") -> Estimate:
    """hits / num with Wilson's interval. Raises UsageError `too_few` for num < 1."""
    if num < 1:
        raise UsageError("too_few", "a share of nothing has no value; give at least one sample")
    return Estimate(hits / num, *wilson(hits / num, num, level), num, level, note)


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor], *, resamples: int = 2000, level: float = LEVEL, seed: int = 0,
              note: str = "") -> Estimate:
    """BCa bootstrap of a statistic of values (N, ...), for statistics without a formula (Efron 1987).

    `statistic` maps (N, ...) to a scalar. The ends are quantiles of the resampled statistic, shifted for its median bias and for the change
    of its error with the value, by the jackknife. It does not take away a bias of order 1 / N: use `extrapolate` for that.
    """
    num = len(values)
    if num < 3 or resamples < 100:
        raise UsageError("too_few", f"the bootstrap needs at least 3 values and 100 resamples, got {num} and {resamples}")
    rng = torch.Generator().manual_seed(seed)
    value = float(statistic(values))
    drawn = torch.tensor([float(statistic(values[torch.randint(num, (num,), generator=rng)])) for _ in range(resamples)], dtype=torch.float64)
    groups = torch.arange(num) % min(num, 200)
    left = torch.tensor([float(statistic(values[groups != g])) for g in range(int(groups.max()) + 1)], dtype=torch.float64)
    gap = left.mean() - left
    squares = float(gap.square().sum())
    bend = float(gap.pow(3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    normal, z = NormalDist(), normal_quantile(level)
    below = float((drawn < value).double().mean() + (drawn == value).double().mean() / 2)
    shift = normal.inv_cdf(min(max(below, 1 / resamples), 1 - 1 / resamples))
    ends = [normal.cdf(shift + (shift + sign * z) / (1 - bend * (shift + sign * z))) for sign in (-1, 1)]
    low, high = (float(torch.quantile(drawn, end)) for end in ends)
    return Estimate(value, low, high, num, level, note)
