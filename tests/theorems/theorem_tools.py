"""Exact propagation of means and variances through a plan, and the lists that the theorem tests run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Cosine, Exponential, Linear, ScaledLinear, Schedule, Shifted, Straight, ZeroTerminal
from inkwash.core.spacing import Path, Spacing
from inkwash.sample import Plan, Program, Sampler, run
from inkwash.sample.kernel import State, advance
from inkwash.sample.onestep import DDIM
from inkwash.value import alias_table

F64 = torch.float64
SAMPLERS: list[Sampler] = sorted({repr(s): s for s in [*alias_table(Sampler).values(), DDIM(0.5)]}.values(), key=repr)
SPACINGS: list[Spacing] = sorted({repr(s): s for s in alias_table(Spacing).values()}.values(), key=repr)
PROCESSES: list[Schedule] = [Linear(), Cosine(), ZeroTerminal(ScaledLinear()), Straight(), Shifted(Straight(), 3.0), Exponential()]
ODES = [s for s in SAMPLERS if not s.stochastic and s.order > 0 and getattr(s, "variance", "") != "none"]
SDES = [s for s in SAMPLERS if s.stochastic]

DATA = gaussian(torch.tensor([0.5, -1.0, 0.3], dtype=F64), torch.tensor([0.25, 1.5, 0.04], dtype=F64))
MODES = Mixture(torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([[-1.2], [0.4], [1.5]], dtype=F64),
                torch.tensor([[0.04], [0.09], [0.01]], dtype=F64))


@cache
def path_of(schedule: Schedule, spacing: Spacing, steps: int) -> Path:
    return spacing.levels(schedule, steps)


def even(low: float, high: float, steps: int, gauge: Gauge = Gauge.VP) -> Path:
    """A path even in lam with both ends finite."""
    return Path.of(gauge, torch.linspace(low, high, steps + 1, dtype=F64))


def solve(plan: Plan, x: Tensor, data: Mixture = DATA, seed: int = 0) -> Tensor:
    """The plan run on the exact denoiser of `data` from x (B, D), as one program, so that noise is drawn for all B at once."""

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        return data.denoise(x[0], level)[None]

    return run(denoise, [Program(plan, seed, 0, x)])[0].x


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


def moments(plan: Plan, mean: float, variance: float) -> list[tuple[float, float]]:
    """(mean, variance) of x after every row, exactly, for data N(mean, variance) and its exact denoiser. K + 1 pairs."""
    start = torch.tensor([plan.alpha[0] * mean, math.sqrt(plan.alpha[0] ** 2 * variance + plan.sigma[0] ** 2)], dtype=F64)

    def denoise(x: Tensor, level: Level) -> Tensor:
        gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        out = gain * x
        out[0] += mean - gain * level.alpha * mean
        return out

    return [(float(x[0]), float((x[1:] ** 2).sum())) for x in trace(plan, start, denoise)]


def slope(steps: list[int], errors: list[float]) -> float:
    """The order: minus the slope of log error over log steps, by least squares."""
    n, e = torch.tensor(steps, dtype=F64).log(), torch.tensor(errors, dtype=F64).log()
    return -float(((n - n.mean()) * (e - e.mean())).sum() / ((n - n.mean()) ** 2).sum())
