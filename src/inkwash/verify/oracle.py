"""Data whose answer is known, and how to measure against them: what every claim and the theorem tests share.

Three kinds of data: a Gaussian, whose probability flow is known in any dimension; a mixture of three modes in one dimension, where the flow
keeps quantiles; and states of which there are finitely many (see `chain`). A sampler is linear in x, x0 and its noises, and the denoiser of a
Gaussian is affine. So mean and variance of what a sampler makes follow exactly, by carrying coefficients over independent unit noises: no
sample is drawn, and an order of convergence can be read off. Distributions are compared by the distance of Kolmogorov and Smirnov; the
limit sqrt(log(2 / p) / 2n) is exceeded with a probability of at most p for every n (Massart 1990, Ann. Probab. 18(3)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Path, Spacing
from inkwash.sample import Plan, Program, run
from inkwash.sample.kernel import State, advance

F64 = torch.float64
DATA = gaussian(torch.tensor([0.5, -1.0, 0.3], dtype=F64), torch.tensor([0.25, 1.5, 0.04], dtype=F64))
MODES = Mixture(torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([[-1.2], [0.4], [1.5]], dtype=F64),
                torch.tensor([[0.04], [0.09], [0.01]], dtype=F64))


@lru_cache(maxsize=4096)
def path_of(schedule: Schedule, spacing: Spacing, steps: int) -> Path:
    """spacing.levels(schedule, steps), remembered."""
    return spacing.levels(schedule, steps)


def even(low: float, high: float, steps: int, gauge: Gauge = Gauge.VP) -> Path:
    """A path even in lam with both ends finite."""
    return Path.of(gauge, torch.linspace(low, high, steps + 1, dtype=F64))


def solve_all(plans: Sequence[Plan], starts: Sequence[Tensor], data: Mixture = DATA, seed: int = 0) -> list[Tensor]:
    """Plans run together on the exact denoiser of `data`, each from its x (B, D): one program each, noise drawn for all B at once."""

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        count = x.shape[1]
        each = Level(level.alpha.repeat_interleave(count), level.sigma.repeat_interleave(count))
        return data.denoise(x.flatten(0, 1), each).reshape(x.shape)

    programs = [Program(plan, seed, 0, x) for plan, x in zip(plans, starts, strict=True)]
    return [result.x for result in run(denoise, programs)]


def solve(plan: Plan, x: Tensor, data: Mixture = DATA, seed: int = 0) -> Tensor:
    """The plan run on the exact denoiser of `data` from x (B, D), as one program."""
    return solve_all([plan], [x], data, seed)[0]


def quantile_start(level: Level, z: Tensor, data: Mixture = DATA) -> Tensor:
    """x (B, D) at `level` (), `z` deviations from the mean of Gaussian data: the same place of the distribution at every level."""
    return level.alpha * data.means + torch.sqrt(level.alpha**2 * data.variances + level.sigma**2) * z


def trace(plan: Plan, x: Tensor, denoise: Callable[[Tensor, Level], Tensor]) -> list[Tensor]:
    """Every x on the way, as coefficients over independent unit vectors: noise of row k is unit vector number len(x) + k.

    x (M,) are the coefficients at the start; `denoise` is linear in them. Returns K + 1 vectors (M + K,).
    """
    state = State.begin(torch.cat([x, torch.zeros(plan.rows, dtype=F64)])[None])
    seen = [state.x[0]]
    for row in range(plan.rows):
        z = torch.zeros_like(state.x)
        z[0, len(x) + row] = 1
        x0 = denoise(state.x[0], Level(plan.alpha[row], plan.sigma[row]))[None]
        state = advance(state, x0, plan.slope[row:row + 1], plan.weights[row:row + 1], z)
        seen.append(state.x[0])
    return seen


def affine(mean: float, variance: float) -> Callable[[Tensor, Level], Tensor]:
    """E[x0 | x] of N(mean, variance) on coefficients whose first entry is the constant."""

    def denoise(x: Tensor, level: Level) -> Tensor:
        gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        out = gain * x
        out[0] += mean - gain * level.alpha * mean
        return out

    return denoise


def moments(plan: Plan, mean: float, variance: float) -> list[tuple[float, float]]:
    """(mean, variance) of x after every row, exactly, for data N(mean, variance) and its exact denoiser. K + 1 pairs."""
    start = torch.tensor([plan.alpha[0] * mean, math.sqrt(plan.alpha[0] ** 2 * variance + plan.sigma[0] ** 2)], dtype=F64)
    return [(float(x[0]), float((x[1:] ** 2).sum())) for x in trace(plan, start, affine(mean, variance))]


def deviation(plan: Plan) -> float:
    """How far data that is one point leaves x = alpha c + sigma (unit noise), at the worst row."""
    start = torch.tensor([plan.alpha[0], plan.sigma[0]], dtype=F64)
    constant = torch.zeros(2 + plan.rows, dtype=F64)
    constant[0] = 1
    worst = 0.0
    for row, x in enumerate(trace(plan, start, lambda x, level: constant)):
        alpha, sigma = float(plan.alpha[row]), float(plan.sigma[row])
        size = math.hypot(alpha, sigma)
        worst = max(worst, abs(float(x[0]) - alpha) / size, abs(float(x[1:].norm()) - sigma) / size)
    return worst


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order: minus the slope of log error over log steps, by least squares."""
    n, e = torch.tensor(steps, dtype=F64).log(), torch.tensor(errors, dtype=F64).log()
    return -float(((n - n.mean()) * (e - e.mean())).sum() / ((n - n.mean()) ** 2).sum())


def noisy(data: Mixture, level: Level, count: int, seed: int) -> Tensor:
    """`count` exact noisy vectors (count, D) at `level` ()."""
    generator = torch.Generator().manual_seed(seed)
    x0 = data.sample(count, generator)
    return level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator, dtype=F64)


def distance(x: Tensor, data: Mixture, level: Level) -> float:
    """Kolmogorov's distance sup |F_n - F| between samples x (B, 1) and the exact distribution of noisy `data` at `level`."""
    exact = data.cdf(x[:, 0].sort().values[:, None], level)[:, 0]
    n = len(exact)
    steps = torch.arange(n + 1, dtype=F64) / n
    return float(torch.maximum((exact - steps[:-1]).abs(), (exact - steps[1:]).abs()).max())


def distance_limit(count: int, false_alarm: float) -> float:
    """What `distance` of `count` right samples exceeds with probability `false_alarm` at most (Massart 1990)."""
    return math.sqrt(math.log(2 / false_alarm) / (2 * count))


def bumpy(x: Tensor, level: Level, index: Tensor) -> Tensor:
    """A denoiser that no theory covers, element by element, for claims about bits."""
    alpha, sigma = level.like(x)
    return torch.sin(3 * x / (alpha + sigma)) * alpha + 0.1


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit for bit."""
    return a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
