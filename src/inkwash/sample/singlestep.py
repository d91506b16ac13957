"""Samplers that evaluate the network several times inside one step, and remember nothing across steps: Runge and Kutta's methods.

Two families. On straight clocks (Heun, RK4, the midpoint method) the ODE is dX/du = D, where a gauge with alpha' = 1 - c sigma' makes
u = sigma / (alpha + c sigma), X = x / (alpha + c sigma) and D = eps - c x0: c = 0 is the VE clock of Karras et al. 2022 (arXiv 2206.00364),
c = 1 the time of rectified flow (Liu et al. 2022, 2209.03003). DPM-Solver (Lu et al. 2022, 2206.00927 and 2211.01095) instead integrates
in lam, where the linear part is exact. Where a stage would sit at an infinite lam the step is the exact first-order one, at one evaluation.
With eta > 0 a step goes to less noise than asked, and fresh noise makes up for it: any of these can be ancestral.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from inkwash.core.spacing import Path, Point
from inkwash.errors import UsageError
from inkwash.sample.onestep import ancestral, check_eta, noise_split
from inkwash.sample.plan import KEEP, Mix, Sampler, Stage

HOLD = Mix(x=1.0)                                          # base becomes the x of this row


class Clock(NamedTuple):
    """The straight clock u = sigma / (alpha + c sigma)."""

    c: float

    @classmethod
    def named(cls, name: str) -> Clock:
        """The clock called "sigma" (c = 0) or "flow" (c = 1)."""
        if name not in ("sigma", "flow"):
            raise UsageError("bad_sampler", f"clock is {name!r}; give 'sigma' (sigma / alpha) or 'flow' (sigma / (alpha + sigma))")
        return cls(1.0 if name == "flow" else 0.0)

    def scale(self, p: Point) -> float:
        """x / X."""
        return p.alpha + self.c * p.sigma

    def u(self, p: Point) -> float:
        """The clock at p."""
        return p.sigma / self.scale(p)

    def slope(self, p: Point) -> tuple[float, float]:
        """D = eps - c x0 from (x, x0) at p."""
        return 1 / p.sigma, -p.alpha / p.sigma - self.c

    def reaches(self, p: Point) -> bool:
        """Whether X and u are finite at p, and D is defined."""
        return self.scale(p) > 0 and p.sigma > 0

    def at(self, path: Path, u: float) -> Point:
        """The level at time u, 0 < u, in the path's gauge: sigma / alpha = u / (1 - c u)."""
        return path.at(math.log1p(-self.c * u) - math.log(u))


class SingleStep(Sampler):
    """A Sampler made of independent steps. `eta` = 0 is its ODE form."""

    eta: float

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @abstractmethod
    def fits(self, p: Point, q: Point) -> bool:
        """Whether the method is defined between p and q."""

    @abstractmethod
    def step(self, path: Path, p: Point, q: Point) -> Iterator[Stage]:
        """The rows from p to q."""

    def stages(self, path: Path) -> Iterator[Stage]:
        check_eta(type(self).__name__, self.eta)
        for p, q in pairwise(path.points):
            down, up = noise_split(p, q, self.eta)
            goal = Point(q.alpha, down)
            if not self.fits(p, goal):
                yield Stage(p, ancestral(p, q, self.eta))
                continue
            *first, last = self.step(path, p, goal)
            yield from first
            yield Stage(last.level, last.next + Mix(z=up), last.base, last.slope)


@dataclass(frozen=True, repr=False)
class Heun(SingleStep):
    """X_q = X_p + (u_q - u_p) (D_p + D_q') / 2, D_q' at Euler's X_q (Karras et al. 2022, algorithm 1). Two evaluations a step, one for the last."""

    clock: str = "sigma"
    eta: float = 0.0
    aliases = {"heun": {}, "heun_flow": {"clock": "flow"}}
    order = 2

    def fits(self, p: Point, q: Point) -> bool:
        clock = Clock.named(self.clock)
        return clock.reaches(p) and clock.reaches(q)

    def step(self, path: Path, p: Point, q: Point) -> Iterator[Stage]:
        clock = Clock.named(self.clock)
        grow, du = clock.scale(q) / clock.scale(p), clock.scale(q) * (clock.u(q) - clock.u(p))
        yield Stage(p, Mix(x=grow, h=(du,)), HOLD, clock.slope(p))
        yield Stage(q, Mix(base=grow, h=(du / 2, du / 2)), KEEP, clock.slope(q))


@dataclass(frozen=True, repr=False)
class RK4(SingleStep):
    """The classical Runge and Kutta method of four evaluations on a straight clock: X_q = X_p + du (k_1 + 2 k_2 + 2 k_3 + k_4) / 6."""

    clock: str = "flow"
    eta: float = 0.0
    aliases = {"rk4": {}}
    order = 4

    def fits(self, p: Point, q: Point) -> bool:
        clock = Clock.named(self.clock)
        return clock.reaches(p) and clock.reaches(q)

    def step(self, path: Path, p: Point, q: Point) -> Iterator[Stage]:
        clock = Clock.named(self.clock)
        middle = clock.at(path, (clock.u(p) + clock.u(q)) / 2)
        du = clock.u(q) - clock.u(p)
        half, full = clock.scale(middle), clock.scale(q)
        yield Stage(p, Mix(x=half / clock.scale(p), h=(half * du / 2,)), HOLD, clock.slope(p))
        yield Stage(middle, Mix(base=half / clock.scale(p), h=(half * du / 2,)), KEEP, clock.slope(middle))
        yield Stage(middle, Mix(base=full / clock.scale(p), h=(full * du,)), KEEP, clock.slope(middle))
        yield Stage(q, Mix(base=full / clock.scale(p), h=tuple(full * du * w / 6 for w in (1, 2, 2, 1))), KEEP, clock.slope(q))


@dataclass(frozen=True, repr=False)
class DPMSolver(SingleStep):
    """DPM-Solver of 2 or 3 evaluations a step (Lu et al. 2022a, algorithms 1 and 2), or with `data` the 2S of DPM-Solver++ (2022b, algorithm 1).

    Noise form, with h = lam_q - lam_p, stages at lam_p + r h: 2 evaluations with r = 1/2, 3 with r = 1/3 and 2/3. The first is also the
    DPM2 of k-diffusion: the midpoint method on the clock sigma / alpha, with its midpoint at sqrt(s_p s_q).
    """

    evaluations: int = 2
    data: bool = False
    eta: float = 0.0
    aliases = {"dpm_solver_2": {}, "dpm_2": {}, "dpm_2_a": {"eta": 1.0}, "dpm_solver_3": {"evaluations": 3},
               "dpmpp_2s": {"data": True}, "dpmpp_2s_a": {"data": True, "eta": 1.0}}

    def __post_init__(self) -> None:
        if self.evaluations not in (2, 3) or (self.data and self.evaluations == 3):
            raise UsageError("bad_sampler", f"DPMSolver: {self.evaluations} evaluations{' of data form' if self.data else ''} is not known; "
                                            "give 2 or 3, and 2 with data=True")

    @property
    def order(self) -> int:
        return self.evaluations

    def fits(self, p: Point, q: Point) -> bool:
        return p.finite and q.finite

    def step(self, path: Path, p: Point, q: Point) -> Iterator[Stage]:
        h = q.lam - p.lam
        if self.data:
            yield from self._two_data(p, path.at(p.lam + h / 2), q, h)
        elif self.evaluations == 2:
            yield from self._two(p, path.at(p.lam + h / 2), q, h)
        else:
            yield from self._three(p, path.at(p.lam + h / 3), path.at(p.lam + 2 * h / 3), q, h)

    @staticmethod
    def _two_data(p: Point, m: Point, q: Point, h: float) -> Iterator[Stage]:
        yield Stage(p, Mix(x=m.sigma / p.sigma, h=(-m.alpha * math.expm1(-h / 2),)), HOLD)
        yield Stage(m, Mix(base=q.sigma / p.sigma, h=(-q.alpha * math.expm1(-h),)))                           # 2 r = 1: only x0_m remains

    @staticmethod
    def _two(p: Point, m: Point, q: Point, h: float) -> Iterator[Stage]:
        eps = Clock(0.0).slope
        yield Stage(p, Mix(x=m.alpha / p.alpha, h=(-m.sigma * math.expm1(h / 2),)), HOLD, eps(p))
        yield Stage(m, Mix(base=q.alpha / p.alpha, h=(-q.sigma * math.expm1(h),)), KEEP, eps(m))

    @staticmethod
    def _three(p: Point, m: Point, n: Point, q: Point, h: float) -> Iterator[Stage]:
        eps = Clock(0.0).slope
        bend = n.sigma * 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)                                        # sigma r_2 / r_1 (phi - 1)
        tail = q.sigma * 1.5 * (math.expm1(h) / h - 1)                                                        # sigma / r_2 (phi - 1)
        yield Stage(p, Mix(x=m.alpha / p.alpha, h=(-m.sigma * math.expm1(h / 3),)), HOLD, eps(p))
        yield Stage(m, Mix(base=n.alpha / p.alpha, h=(-bend, bend - n.sigma * math.expm1(2 * h / 3))), KEEP, eps(m))
        yield Stage(n, Mix(base=q.alpha / p.alpha, h=(-tail, 0.0, tail - q.sigma * math.expm1(h))), KEEP, eps(n))


@dataclass(frozen=True, repr=False)
class DPMSolverSDE(Sampler):
    """The single-step SDE form of DPM-Solver++: a posterior step to lam_m = (lam_p + lam_q) / 2, then one from p to q with x0_m for x0_p.

    After `sample_dpmpp_sde` of k-diffusion (Crowson 2022), whose two noises are correlated; here they are independent.
    """

    eta: float = 1.0
    aliases = {"dpmpp_sde": {}}
    order = 1

    def __post_init__(self) -> None:
        check_eta("DPMSolverSDE", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            whole = ancestral(p, q, self.eta)
            if p.finite and q.finite:
                middle = path.at((p.lam + q.lam) / 2)
                yield Stage(p, ancestral(p, middle, self.eta), HOLD)
                yield Stage(middle, Mix(base=whole.x, h=whole.h, z=whole.z))
            else:
                yield Stage(p, whole)
