"""Noise processes: lam(t), strictly decreasing from clean (t = 0) to noise (t = 1), with a gauge.

Variance-preserving processes are given by log abar(t), where abar = alpha^2 and lam = (log abar - log(1 - abar)) / 2. Discrete ones
(DDPM, Stable Diffusion) are tables beta_1..beta_T with abar_k = prod(1 - beta_j): table entry k stands at t = k / T and t = 0 is clean.
Between entries log abar is linear in t, that is, beta(t) is piecewise constant. Text counts 1..T; foreign code counts 0..T-1.
Sources: Ho et al. 2020 (arXiv 2006.11239); Nichol & Dhariwal 2021 (2102.09672); Rombach et al. 2022 (2112.10752); Song et al. 2021
(2011.13456); Liu et al. 2022 (2209.03003); Esser et al. 2024 (2403.03206); Lin et al. 2023 (2305.08891).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.errors import UsageError, shown
from inkwash.value import Value


def lam_of_log_abar(log_abar: Tensor) -> Tensor:
    """lam = (log abar - log(1 - abar)) / 2, accurate for abar near 0 and near 1."""
    return 0.5 * (log_abar - torch.log(-torch.expm1(log_abar)))


def log_abar_of_lam(lam: Tensor) -> Tensor:
    """log abar = log sigmoid(2 lam), the inverse of `lam_of_log_abar`."""
    return torch.nn.functional.logsigmoid(2 * lam)


MOST_STEPS = 1_000_000


def check_steps(schedule: Schedule, steps: int) -> None:
    """Raises UsageError `bad_schedule` for a table of no or too many entries."""
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError("bad_schedule", f"{type(schedule).__name__} needs num_steps in 1..{MOST_STEPS}, got {shown(steps, 40)}; usually 1000")


def check_offset(schedule: Schedule, s: float) -> None:
    """Raises UsageError `bad_schedule` for an offset of the cosine at which lam is not strictly decreasing."""
    if not 0 <= s <= 100:
        raise UsageError("bad_schedule", f"{type(schedule).__name__} needs s in 0..100, got {s:g}; 0.008 is usual")


class Schedule(Value, ABC):
    """A strictly decreasing lam(t) on [0, 1] and a gauge. All arithmetic is float64."""

    gauge: Gauge
    num_steps: int | None = None

    @abstractmethod
    def lam(self, t: Tensor) -> Tensor:
        """Half the log-SNR at times t (...,) in [0, 1]."""

    @abstractmethod
    def time(self, lam: Tensor) -> Tensor:
        """The inverse of `lam`; values outside the range of the schedule are clamped to [0, 1]."""

    def __call__(self, t: Tensor | float) -> Level:
        """The level (alpha, sigma) at times t (...,)."""
        return self.gauge.split(self.lam(torch.as_tensor(t, dtype=torch.float64)))

    def leak(self) -> float:
        """The share of the signal's amplitude that is left at t = 1: alpha / sqrt(alpha^2 + sigma^2), 0 when nothing leaks."""
        return float(Gauge.VP.split(self.lam(torch.ones((), dtype=torch.float64))).alpha)


@lru_cache(maxsize=64)
def _log_abar_table(schedule: _Table) -> Tensor:
    """log abar at k = 0..T (T + 1,), by a cumulative sum of logs."""
    betas = schedule.betas()
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise UsageError("bad_schedule", f"{schedule!r}: every beta must lie between 0 and 1, got {float(betas.min()):.3g}..{float(betas.max()):.3g}")
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])


class _Table(Schedule):
    """A variance-preserving process given by beta_1..beta_T."""

    gauge = Gauge.VP

    @abstractmethod
    def betas(self) -> Tensor:
        """beta_1..beta_T (T,) float64."""

    def abar(self) -> Tensor:
        """abar_1..abar_T (T,) float64."""
        return _log_abar_table(self)[1:].exp()

    def lam(self, t: Tensor) -> Tensor:
        table = _log_abar_table(self)
        place = torch.as_tensor(t, dtype=torch.float64).clamp(0, 1) * (len(table) - 1)
        left = place.floor().clamp(max=len(table) - 2).long()
        return lam_of_log_abar(torch.lerp(table[left], table[left + 1], place - left))

    def time(self, lam: Tensor) -> Tensor:
        table = _log_abar_table(self)
        log_abar = log_abar_of_lam(torch.as_tensor(lam, dtype=torch.float64))
        right = torch.searchsorted(-table, -log_abar).clamp(1, len(table) - 1)
        share = (log_abar - table[right - 1]) / (table[right] - table[right - 1])
        return (right - 1 + share.clamp(0, 1)) / (len(table) - 1)


@dataclass(frozen=True, repr=False)
class Linear(_Table):
    """beta_k linear from `beta_start` to `beta_end` (Ho et al. 2020, section 4)."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_steps: int = 1000
    aliases = {"linear": {}}

    def __post_init__(self) -> None:
        check_steps(self, self.num_steps)

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=torch.float64)


@dataclass(frozen=True, repr=False)
class ScaledLinear(_Table):
    """sqrt(beta_k) linear; the schedule of Stable Diffusion 1 and 2, which leaves 6.8 % of the signal's amplitude at the end."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_steps: int = 1000
    aliases = {"scaled_linear": {}}

    def __post_init__(self) -> None:
        check_steps(self, self.num_steps)
        if not (self.beta_start > 0 and self.beta_end > 0):
            raise UsageError("bad_schedule", f"ScaledLinear takes roots, it needs betas above 0, got {self.beta_start:g} and {self.beta_end:g}")

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_steps, dtype=torch.float64) ** 2


@dataclass(frozen=True, repr=False)
class Sigmoid(_Table):
    """beta_k = beta_start + (beta_end - beta_start) * sigmoid(u_k), u_k = -span + 2 span k / T for k = 1..T.

    `symmetric=True` spaces u from -span to span with both ends, as diffusers does: abar_T = 3.97e-5 in place of 3.93e-5.
    `rescaled=False` would use sigmoid(u_k) itself as beta: with span 6 that ends at beta_T = 0.9975, and the signal is gone (abar = 1.5e-30)
    half way. It is refused.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_steps: int = 1000
    span: float = 6.0
    rescaled: bool = True
    symmetric: bool = False
    aliases = {"sigmoid": {}}

    def __post_init__(self) -> None:
        check_steps(self, self.num_steps)
        if not self.rescaled:
            raise UsageError("bad_schedule", f"Sigmoid(rescaled=False): raw sigmoid(-{self.span:g}..{self.span:g}) as beta ends at "
                                             f"beta_T = {1 / (1 + math.exp(-self.span)):.4f} and destroys the image by mid-way; use rescaled=True")

    def betas(self) -> Tensor:
        u = torch.linspace(-self.span, self.span, self.num_steps + (not self.symmetric), dtype=torch.float64)[-self.num_steps:]
        return self.beta_start + (self.beta_end - self.beta_start) * torch.sigmoid(u)


@dataclass(frozen=True, repr=False)
class DiscreteCosine(_Table):
    """The cosine schedule as a table: beta_k = clip(1 - f(k/T) / f((k-1)/T), floor, cap), f as in `Cosine`.

    Nichol & Dhariwal 2021 cap at 0.999 and have no floor; a floor of 1e-4, seen in tutorials, changes the first 13 betas.
    """

    s: float = 0.008
    floor: float = 0.0
    cap: float = 0.999
    num_steps: int = 1000
    aliases = {"cosine_discrete": {}, "cosine_floor": {"floor": 1e-4}}

    def __post_init__(self) -> None:
        check_steps(self, self.num_steps)
        check_offset(self, self.s)

    def betas(self) -> Tensor:
        k = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        f = torch.cos((k + self.s) / (1 + self.s) * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max(self.floor, 1e-12), self.cap)


@dataclass(frozen=True, repr=False)
class Tabulated(_Table):
    """Any table of betas, for discrete-time checkpoints."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("bad_schedule", "Tabulated needs at least one beta")

    @property
    def num_steps(self) -> int:  # type: ignore[override]
        return len(self.values)

    def betas(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """abar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) * pi / 2) in continuous time: no signal is left at t = 1."""

    s: float = 0.008
    gauge = Gauge.VP
    aliases = {"cosine": {}}

    def __post_init__(self) -> None:
        check_offset(self, self.s)

    def lam(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        angle = (t + self.s) / (1 + self.s) * (math.pi / 2)
        # 1 - abar = sin(angle - zero) * sin(angle + zero) / cos^2(zero) stays accurate near t = 0, where abar is near 1
        zero = self.s / (1 + self.s) * math.pi / 2
        rest = torch.sin(angle - zero) * torch.sin(angle + zero)
        lam = torch.log(torch.cos(angle).clamp(min=0)) - 0.5 * torch.log(rest)
        return torch.where(t >= 1, -math.inf, lam)

    def time(self, lam: Tensor) -> Tensor:
        lam = torch.as_tensor(lam, dtype=torch.float64)
        zero = self.s / (1 + self.s) * math.pi / 2
        # cos^2(angle) = abar cos^2(zero) and sin^2(angle) = 1 - abar cos^2(zero) = (1 - abar) + abar sin^2(zero)
        abar, rest = torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)
        angle = torch.atan2((rest + abar * math.sin(zero) ** 2).sqrt(), abar.sqrt() * math.cos(zero))
        return (angle * (2 / math.pi) * (1 + self.s) - self.s).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    """Variance exploding: sigma(t) = sigma_min * (sigma_max / sigma_min)^t with alpha = 1, so lam is linear in t (Song et al. 2021, eq. 31)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    gauge = Gauge.VE
    aliases = {"exponential": {}}

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise UsageError("bad_schedule", f"Exponential needs 0 < sigma_min < sigma_max, both finite, got {self.sigma_min} and {self.sigma_max}")

    def lam(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return -torch.lerp(torch.full_like(t, math.log(self.sigma_min)), torch.full_like(t, math.log(self.sigma_max)), t)

    def time(self, lam: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((-torch.as_tensor(lam, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Straight(Schedule):
    """Rectified flow: x = (1 - t) x0 + t eps, lam = -logit(t); t = 1 is noise (some papers run time the other way)."""

    gauge = Gauge.FLOW
    aliases = {"straight": {}, "rectified_flow": {}}

    def lam(self, t: Tensor) -> Tensor:
        return -torch.logit(torch.as_tensor(t, dtype=torch.float64))

    def time(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-torch.as_tensor(lam, dtype=torch.float64))


@dataclass(frozen=True, repr=False)
class Shifted(Schedule):
    """lam(t) = base.lam(t) - log(shift): more noise at equal t, as larger images need.

    For rectified flow this is t' = shift * t / (1 + (shift - 1) * t) (Esser et al. 2024, eq. 23).
    """

    base: Schedule
    shift: float = 3.0

    def __post_init__(self) -> None:
        if not (self.shift > 0 and math.isfinite(self.shift)):
            raise UsageError("bad_schedule", f"Shifted needs a finite shift > 0, got {self.shift}")

    @classmethod
    def for_tokens(cls, base: Schedule, num_tokens: int, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)) -> Shifted:
        """The shift exp(mu), mu linear in the number of image tokens through the points `low` and `high` (tokens, mu)."""
        mu = low[1] + (num_tokens - low[0]) * (high[1] - low[1]) / (high[0] - low[0])
        return cls(base, math.exp(mu))

    @property
    def gauge(self) -> Gauge:  # type: ignore[override]
        return self.base.gauge

    @property
    def num_steps(self) -> int | None:  # type: ignore[override]
        return self.base.num_steps

    def lam(self, t: Tensor) -> Tensor:
        return self.base.lam(t) - math.log(self.shift)

    def time(self, lam: Tensor) -> Tensor:
        return self.base.time(torch.as_tensor(lam, dtype=torch.float64) + math.log(self.shift))


@dataclass(frozen=True, repr=False)
class ZeroTerminal(Schedule):
    """A base process whose amplitude alpha is shifted and scaled so that nothing of the signal is left at t = 1 (Lin et al. 2023, algorithm 1).

    alpha'(t) = (alpha(t) - alpha(1)) * alpha(t1) / (alpha(t1) - alpha(1)) for t >= t1 = 1/T, and alpha' = alpha before. Eps-prediction is
    undefined at t = 1 and refused by `require_solvable`.
    """

    base: Schedule
    gauge = Gauge.VP

    def __post_init__(self) -> None:
        if self.base.gauge is not Gauge.VP:
            raise UsageError("bad_schedule", f"ZeroTerminal rescales a VP process, {self.base!r} is {self.base.gauge.value}")

    @property
    def num_steps(self) -> int | None:  # type: ignore[override]
        return self.base.num_steps

    def _anchors(self) -> tuple[Tensor, Tensor, Tensor]:
        first = self.base.lam(torch.tensor(1 / (self.base.num_steps or 1000), dtype=torch.float64))
        last = self.base.lam(torch.ones((), dtype=torch.float64))
        return first, Gauge.VP.split(first).alpha, Gauge.VP.split(last).alpha

    def lam(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        lam = self.base.lam(t)
        first, a_1, a_T = self._anchors()
        alpha = (Gauge.VP.split(lam).alpha - a_T).clamp(min=0) * (a_1 / (a_1 - a_T))
        moved = torch.log(alpha) - 0.5 * torch.log((1 - alpha) * (1 + alpha))
        return torch.where(t >= 1, -math.inf, torch.where(lam >= first, lam, moved))

    def time(self, lam: Tensor) -> Tensor:
        lam = torch.as_tensor(lam, dtype=torch.float64)
        first, a_1, a_T = self._anchors()
        alpha = Gauge.VP.split(lam).alpha * ((a_1 - a_T) / a_1) + a_T
        moved = torch.log(alpha) - 0.5 * torch.log((1 - alpha) * (1 + alpha))
        return self.base.time(torch.where(lam >= first, lam, moved))
