"""Which noise levels to visit: a Spacing turns a Schedule and a number of steps into a Path.

A Path of n steps has n + 1 levels, noisy to clean: the first is the schedule's terminal level (where sampling starts, whatever the
spacing), the last is clean (sigma = 0). In between, spacings differ in the quantity that they divide evenly: time, the index of a training
table, a power of sigma, or lam. Integer grids of published code that start below the terminal level, or that make more steps than asked
(range(0, T, T // n) makes 31 steps of n = 30), are corrected here: the first entry becomes the terminal level, and n steps are n steps.
Sources: Karras et al. 2022 (arXiv 2206.00364), eq. 5; Lin et al. 2023 (2305.08891), table 2; Song et al. 2021 (2010.02502), appendix D.2;
Lee et al. 2024 (2407.12173) for the beta spacing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Schedule
from inkwash.errors import UsageError
from inkwash.value import Value


class Point(NamedTuple):
    """One noise level as two Python floats, for the scalar arithmetic of samplers."""

    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma); -inf at pure noise, +inf when clean."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha) - math.log(self.sigma)

    @property
    def finite(self) -> bool:
        """Whether lam is finite."""
        return self.alpha > 0 and self.sigma > 0


class Path(NamedTuple):
    """The levels to visit, in order: n steps lie between n + 1 levels."""

    gauge: Gauge
    levels: Level                                          # (n + 1,) float64

    @classmethod
    def of(cls, gauge: Gauge, lam: Tensor) -> Path:
        """The path through the half-log-SNRs `lam` (n + 1,)."""
        return cls(gauge, gauge.split(lam))

    @property
    def steps(self) -> int:
        """The number of steps, one less than the number of levels."""
        return len(self.levels.alpha) - 1

    @property
    def points(self) -> list[Point]:
        """The levels as pairs of floats, n + 1 of them."""
        return [Point(alpha, sigma) for alpha, sigma in zip(self.levels.alpha.tolist(), self.levels.sigma.tolist(), strict=True)]

    def at(self, lam: float) -> Point:
        """The level of half-log-SNR `lam` in this path's gauge."""
        level = self.gauge.split(torch.tensor(lam, dtype=torch.float64))
        return Point(float(level.alpha), float(level.sigma))

    def last(self, steps: int) -> Path:
        """The last `steps` steps: what is left to do when an image is given at the level where they start."""
        if not 1 <= steps <= self.steps:
            raise UsageError("bad_steps", f"cannot take the last {steps} of {self.steps} steps; give 1..{self.steps}")
        return Path(self.gauge, Level(self.levels.alpha[-steps - 1:], self.levels.sigma[-steps - 1:]))

    def cut(self, strength: float) -> Path:
        """The end of the path that changes an image by `strength` in (0, 1]: round(strength * steps) steps, at least one.

        It starts where strength * steps steps are left. Where that is no whole number, the start lies between two levels, at that share of
        their angle atan2(sigma, alpha), and the first step is longer or shorter: the level is a continuous function of strength.
        Raises UsageError `bad_strength`.
        """
        if not 0 < strength <= 1:
            raise UsageError("bad_strength", f"strength is {strength:g}; give a number above 0 (nothing changes) up to 1 (nothing is kept)")
        left = strength * self.steps
        path = self.last(max(1, round(left)))
        if left > 0.5 and abs(left - round(left)) < 1e-9:
            return path
        place = self.steps - max(left, 1e-9)               # counted in steps from the noisy end
        angle = torch.atan2(self.levels.sigma, self.levels.alpha)[int(place):int(place) + 2]
        lam = -torch.log(torch.tan(torch.lerp(angle[0], angle[1], place % 1)))
        return Path(self.gauge, Level(*(torch.cat([first[None], rest[1:]]) for first, rest in zip(self.gauge.split(lam), path.levels, strict=True))))

    def up(self) -> Path:
        """The same levels clean to noisy, for inversion. The clean end is left out: there x is x0, and eps is not defined.

        Start it with x = alpha_0 * x0, the mean of x at its first level.
        """
        keep = self.levels.sigma.flip(0) > 0
        return Path(self.gauge, Level(self.levels.alpha.flip(0)[keep], self.levels.sigma.flip(0)[keep]))

    def to(self, gauge: Gauge) -> Path:
        """The same levels in another gauge."""
        return Path.of(gauge, self.levels.lam)


class Spacing(Value, ABC):
    """How n steps divide a schedule."""

    @abstractmethod
    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        """The n levels at which the network is first asked, (n,) increasing; the first is replaced by the schedule's terminal level."""

    def levels(self, schedule: Schedule, steps: int) -> Path:
        """The Path of exactly `steps` steps from the terminal level to clean. Raises UsageError `bad_steps`."""
        if steps < 1:
            raise UsageError("bad_steps", f"steps is {steps}; give a whole number of at least 1")
        lam = self.lam(schedule, steps)
        lam = torch.cat([schedule.lam(torch.ones(1, dtype=torch.float64)), lam[1:], torch.tensor([math.inf], dtype=torch.float64)])
        if not bool((lam[1:] > lam[:-1]).all()):
            raise UsageError("bad_steps", f"{self} cannot divide {schedule!r} into {steps} distinct steps; give fewer, or another spacing")
        return Path.of(schedule.gauge, lam)


def _table_length(schedule: Schedule) -> int:
    """The length of the schedule's training table; continuous ones count as 1000, as is usual."""
    return schedule.num_steps or 1000


def _at_index(schedule: Schedule, index: Tensor) -> Tensor:
    """lam at 0-based table indices: entry k stands at t = (k + 1) / T."""
    return schedule.lam((index + 1) / _table_length(schedule))


def _ends(schedule: Schedule, cap: float) -> tuple[float, float]:
    """sigma / alpha at the noisy and at the clean end; `cap` and the first table entry stand in where these are infinite or zero."""
    time = torch.tensor([1.0, 0.0, 1 / _table_length(schedule)], dtype=torch.float64)
    high, zero, low = torch.exp(-schedule.lam(time)).tolist()
    low = zero if zero > 0 else low
    return (high if math.isfinite(high) else max(cap, 2 * low)), low


def check_cap(name: str, cap: float) -> None:
    """Raises UsageError `bad_spacing` for an end of a grid that is no noise level."""
    if not 0 < cap <= 1e6:
        raise UsageError("bad_spacing", f"{name} needs cap within 0..1e6, got {cap:g}; it is sigma / alpha at the noisy end, usually 80")


def _count(steps: int) -> Tensor:
    return torch.arange(steps, dtype=torch.float64)        # (n,)


def _share(steps: int) -> Tensor:
    """0 .. 1 in n points, both ends included; one point is 0."""
    return _count(steps) / max(1, steps - 1)


@dataclass(frozen=True, repr=False)
class Uniform(Spacing):
    """t_i = 1 - i / n."""

    aliases = {"uniform": {}}

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        return schedule.lam(1 - _count(steps) / steps)


@dataclass(frozen=True, repr=False)
class Trailing(Spacing):
    """Table indices round(T - i T / n) - 1: the noisy end is always included."""

    aliases = {"trailing": {}}

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        total = _table_length(schedule)
        index = total - _count(steps) * total / steps
        return _at_index(schedule, (index.round() if steps <= total else index) - 1)


@dataclass(frozen=True, repr=False)
class Leading(Spacing):
    """Table indices floor(j T / n), j = n - 1 .. 0; the largest, which would leave the noisy end out, becomes T - 1."""

    aliases = {"leading": {}}

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        total = _table_length(schedule)
        if steps > total:
            return Linspace().lam(schedule, steps)
        return _at_index(schedule, (_count(steps).flip(0) * total / steps).floor())


@dataclass(frozen=True, repr=False)
class Linspace(Spacing):
    """Table indices round(j (T - 1) / (n - 1)), j = n - 1 .. 0: both ends are included."""

    aliases = {"linspace": {}}

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        total = _table_length(schedule)
        index = (1 - _share(steps)) * (total - 1)
        return _at_index(schedule, index.round() if steps <= total else index)


@dataclass(frozen=True, repr=False)
class Quadratic(Spacing):
    """sqrt(t) even from 1 to sqrt(1 / T): more steps near the image."""

    aliases = {"quadratic": {}}

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        low = _table_length(schedule) ** -0.5
        return schedule.lam((1 + _share(steps) * (low - 1)) ** 2)


@dataclass(frozen=True, repr=False)
class Karras(Spacing):
    """(sigma / alpha)^(1 / rho) even between the ends of the schedule (Karras et al. 2022, eq. 5).

    Where the terminal level is pure noise, the grid is laid from sigma / alpha = `cap`, and its first entry replaced.
    """

    rho: float = 7.0
    cap: float = 80.0
    aliases = {"karras": {}}

    def __post_init__(self) -> None:
        if not 0.1 <= self.rho <= 1000:                    # beyond, the powers leave the floating point numbers
            raise UsageError("bad_spacing", f"Karras needs rho within 0.1..1000, got {self.rho:g}; 7 is usual, 1 is even in sigma / alpha")
        check_cap("Karras", self.cap)

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        high, low = _ends(schedule, self.cap)
        high, low = high ** (1 / self.rho), low ** (1 / self.rho)
        return -self.rho * torch.log(high + _share(steps) * (low - high))


@dataclass(frozen=True, repr=False)
class LogSNR(Spacing):
    """lam even between the ends of the schedule; `cap` as for Karras."""

    cap: float = 80.0
    aliases = {"log_snr": {}, "exponential_sigmas": {}}

    def __post_init__(self) -> None:
        check_cap("LogSNR", self.cap)

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        high, low = (math.log(end) for end in _ends(schedule, self.cap))
        return -(high + _share(steps) * (low - high))


@dataclass(frozen=True, repr=False)
class Beta(Spacing):
    """t_i is the quantile 1 - i / n of the Beta(alpha, beta) distribution: below 1 both parameters crowd steps at both ends."""

    alpha: float = 0.6
    beta: float = 0.6
    aliases = {"beta": {}}

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            raise UsageError("bad_spacing", f"Beta needs alpha > 0 and beta > 0, got {self.alpha} and {self.beta}")

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        return schedule.lam(beta_quantile(1 - _count(steps) / steps, self.alpha, self.beta))


def beta_quantile(p: Tensor, a: float, b: float) -> Tensor:
    """The inverse of the regularised incomplete beta function I_t(a, b) = p (n,), by bisection: |error| < 1e-12."""
    low, high = torch.zeros_like(p), torch.ones_like(p)
    for _ in range(44):
        middle = (low + high) / 2
        below = _incomplete_beta(middle, a, b) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(p >= 1, 1.0, (low + high) / 2)


def _incomplete_beta(t: Tensor, a: float, b: float) -> Tensor:
    """I_t(a, b) for t strictly inside (0, 1), by its continued fraction (Abramowitz and Stegun, 26.5.8) on the side where it converges fast."""
    swap = t > (a + 1) / (a + b + 2)
    first, second = torch.full_like(t, a), torch.full_like(t, b)
    t, a_, b_ = torch.where(swap, 1 - t, t), torch.where(swap, second, first), torch.where(swap, first, second)
    front = torch.exp(a_ * t.log() + b_ * torch.log1p(-t) + torch.lgamma(a_ + b_) - torch.lgamma(a_) - torch.lgamma(b_)) / a_
    value = torch.ones_like(t)
    for m in range(40, 0, -1):                              # d_2m = m (b - m) t / ..., d_2m+1 = -(a + m) (a + b + m) t / ...
        odd = -(a_ + m) * (a_ + b_ + m) * t / ((a_ + 2 * m) * (a_ + 2 * m + 1))
        even = m * (b_ - m) * t / ((a_ + 2 * m - 1) * (a_ + 2 * m))
        value = 1 + even / (1 + odd / value)
    result = front / (1 - (a_ + b_) * t / (a_ + 1) / value)
    return torch.where(swap, 1 - result, result)
