"""Claims about where samplers arrive: orders of convergence, moments, distributions, and the way back.

A deterministic sampler solves the probability flow ODE, and its error against the exact flow falls like steps^-order. A stochastic one is
judged by mean and variance, which follow exactly (see `oracle`). Both are run between finite levels even in lam, at 80, 160, 320 and 640
steps, so that the slope is the method's and not that of an end where lam is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.core.schedule import Cosine
from inkwash.core.spacing import Uniform
from inkwash.sample import Plan, Program, Sampler, run
from inkwash.verify.claim import Check, Claim, Measure, below, each
from inkwash.verify.oracle import (
    DATA,
    F64,
    MODES,
    distance,
    distance_limit,
    even,
    moments,
    noisy,
    path_of,
    quantile_start,
    slope,
    solve_all,
)

STEPS = (80, 160, 320, 640)
SLACK = 0.3                                                # how far a measured order may be from the stated one
FLOOR = {2: 1.9, 3: 2.8}                                   # and the least that orders 2 and 3 must reach
CLOUD = 3000                                               # samples per comparison of distributions
FALSE_ALARM = 1e-3                                         # of all comparisons of distributions in one report together
COMPARISONS = 100                                          # at most so many are made
PLACES = torch.tensor([[1.3, -0.6, 0.8]], dtype=F64)       # deviations from the mean at which trajectories start
SPREAD = torch.tensor([[-2.0], [-0.7], [0.1], [0.9], [2.2]], dtype=F64)


def moment_error(plan: Plan, mean: float = 0.5, variance: float = 0.25) -> float:
    """Distance of (mean, variance) at the end of the plan from the exact ones, for data N(mean, variance)."""
    got = moments(plan, mean, variance)[-1]
    alpha, sigma = (float(part) for part in plan.end)
    return math.hypot(got[0] - alpha * mean, got[1] - (alpha**2 * variance + sigma**2))


def flow_orders(samplers: Sequence[Sampler], counts: Sequence[int], low: float, high: float, data: Mixture, start: Tensor,
                ) -> list[tuple[float, float]]:
    """(order by regression, last error) of each sampler against the exact flow of `data` from lam = low to high.

    `start` (B, D) are deviations from the mean where the data are a Gaussian, else x at lam = low.
    """
    plans = [sampler.plan(even(low, high, steps)) for sampler in samplers for steps in counts]
    x = quantile_start(plans[0].start, start, data) if len(data.weights) == 1 else start
    exact = data.flow(x, plans[0].start, plans[0].end)
    errors = [float((got - exact).norm()) for got in solve_all(plans, [x] * len(plans), data)]
    n = len(counts)
    return [(slope(counts, errors[n * i:n * i + n]), errors[n * i + n - 1]) for i in range(len(samplers))]


def observed_orders(samplers: Sequence[Sampler]) -> list[float]:
    """Orders by regression: of the trajectory, or of the moments where noise is drawn."""
    smooth = [sampler for sampler in samplers if not sampler.stochastic]
    found = iter(flow_orders(smooth, STEPS, -8, 2, DATA, PLACES) if smooth else [])
    return [slope(STEPS, [moment_error(sampler.plan(even(-5, 2, steps))) for steps in STEPS]) if sampler.stochastic else next(found)[0]
            for sampler in samplers]


def order(samplers: Sequence[Sampler]) -> list[Measure | None]:
    """Within 0.3 of the order that the sampler states; orders 2 and 3 reach 1.9 and 2.8."""
    stated = [sampler for sampler in samplers if sampler.order]
    found = iter(observed_orders(stated))
    return [_order(sampler.order, next(found)) if sampler.order else None for sampler in samplers]


def _order(stated: int, found: float) -> Measure:
    passed = abs(found - stated) < SLACK and found >= FLOOR.get(stated, 0.0)
    return Measure(passed, f"{found:.2f}", f"{stated}", f"slope at {', '.join(map(str, STEPS))} steps", f"{found:.2f}")


def is_ode(sampler: Sampler) -> bool:
    """Whether the sampler solves the probability flow ODE with a stated order."""
    return not sampler.stochastic and sampler.order > 0


def mixture(samplers: Sequence[Sampler]) -> list[Measure | None]:
    """The order holds where the denoiser is not linear: quantiles of three modes move along the exact flow."""
    smooth = [sampler for sampler in samplers if is_ode(sampler)]
    found = iter(flow_orders(smooth, (80, 160, 320), -6, 1, MODES, SPREAD) if smooth else [])
    return [_above(next(found)[0], sampler.order - 0.4) if is_ode(sampler) else None for sampler in samplers]


def _above(found: float, least: float) -> Measure:
    return Measure(found > least, f"{found:.2f}", f"above {least:g}", cell=f"{found:.2f}")


def keeps_moments(sampler: Sampler) -> Measure | None:
    """Mean and variance of a clean Gaussian after 200 steps: what is left is the discretisation."""
    if not sampler.order:
        return None
    plan = sampler.plan(path_of(Cosine(), Uniform(), 200))
    mean, variance = moments(plan, 0.5, 0.25)[-1]
    return below(max(abs(mean / 0.5 - 1), abs(variance / 0.25 - 1)), 0.04 if sampler.order == 1 else 4e-3, "relative error of mean and variance")


def consistency_function(x: Tensor, level: Level) -> Tensor:
    """Where the exact flow of MODES through x (B, 1) at `level` () is clean: what a perfectly distilled network answers."""
    return MODES.flow(x, level, Level(torch.ones((), dtype=F64), torch.full((), 1e-6, dtype=F64)))


def jumps(sampler: Sampler) -> bool:
    """Whether the sampler is meant for a consistency function in place of a denoiser."""
    return not sampler.order and sampler.exact


def marginals(samplers: Sequence[Sampler]) -> list[Measure | None]:
    """3000 samples of three modes against their exact distribution. Samplers that jump are given the exact consistency function."""
    plans = [sampler.plan(even(-5, 2.5, 5 if jumps(sampler) else 120)) for sampler in samplers]
    x = noisy(MODES, plans[0].start, CLOUD, 77)
    walking = [plan for plan, sampler in zip(plans, samplers, strict=True) if not jumps(sampler)]
    walked = iter(solve_all(walking, [x] * len(walking), MODES, seed=1) if walking else [])
    return [_marginals(_jumped(plan, x) if jumps(sampler) else next(walked), plan) for plan, sampler in zip(plans, samplers, strict=True)]


def _jumped(plan: Plan, x: Tensor) -> Tensor:
    def jump(x: Tensor, level: Level, index: Tensor) -> Tensor:
        return consistency_function(x[0], Level(level.alpha[0], level.sigma[0]))[None]

    return run(jump, [Program(plan, 1, 0, x)])[0].x


def _marginals(x: Tensor, plan: Plan) -> Measure:
    alarm = FALSE_ALARM / COMPARISONS
    return below(distance(x, MODES, plan.end), distance_limit(CLOUD, alarm), f"sup |F_n - F| of {CLOUD} samples, false alarms {alarm:g} each")


def inversion(samplers: Sequence[Sampler]) -> list[Measure | None]:
    """Up to noise and down again between two noisy levels, 50, 100 and 200 steps: the return misses the start by the order."""
    smooth = [sampler for sampler in samplers if is_ode(sampler)]
    if not smooth:
        return [None] * len(samplers)
    counts, image = (50, 100, 200), MODES.sample(50, torch.Generator().manual_seed(3))
    downs = [(sampler, even(-4, 3, steps)) for sampler in smooth for steps in counts]
    ups = [sampler.plan(down.up()) for sampler, down in downs]
    x = ups[0].start.alpha * image
    codes = solve_all(ups, [x] * len(ups), MODES)
    backs = solve_all([sampler.plan(down) for sampler, down in downs], codes, MODES)
    errors = iter(float((back - x).square().mean().sqrt()) for back in backs)
    return [_returned(sampler, counts, [next(errors) for _ in counts]) if is_ode(sampler) else None for sampler in samplers]


def _returned(sampler: Sampler, counts: Sequence[int], errors: Sequence[float]) -> Measure:
    found = slope(counts, errors)
    return Measure(found > sampler.order - SLACK and errors[-1] < 0.05, f"order {found:.2f}, {errors[-1]:.2g} at 200 steps",
                   f"order above {sampler.order - SLACK:g}, below 0.05", cell=f"{errors[-1]:.0e}")


CONVERGENCE: tuple[Check[Sampler], ...] = (
    Check(Claim("order", "The error falls with the power of the number of steps that the sampler states, on a Gaussian, by regression."), order),
    Check(Claim("mixture", "So it does where the denoiser is not linear, on three modes along the exact flow."), mixture),
    Check(Claim("moments", "Mean and variance of a clean Gaussian come out right at 200 steps, followed exactly."), each(keeps_moments)),
    Check(Claim("marginals", "Samples of three modes have their exact distribution (Kolmogorov and Smirnov, fixed seed)."), marginals),
    Check(Claim("inversion", "An image encoded to noise and decoded returns, with the stated order; shown: the miss at 200 steps."), inversion),
)
