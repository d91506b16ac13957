"""Samplers of one evaluation per step that remember earlier slopes.

In lam the probability flow ODE is linear in x but for the network (Lu et al. 2022, arXiv 2206.00927, prop. 3.1; 2211.01095, prop. 4.1):

    x_q = sigma_q / sigma_p x_p + sigma_q int e^lam  x0(lam) dlam        (data form)
    x_q = alpha_q / alpha_p x_p - alpha_q int e^-lam eps(lam) dlam       (noise form)

between lam_p and lam_q. A multistep method puts a polynomial through the last few x0 or eps and integrates it; the first steps, which have no
past, use lower degrees. From pure noise and to the clean image lam is infinite: those steps, the first and the last of a path, are the exact
first-order ones, and nothing is remembered of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch

from inkwash.core.spacing import Path, Point
from inkwash.errors import UsageError
from inkwash.sample.onestep import ancestral, check_eta
from inkwash.sample.plan import HISTORY, Mix, Sampler, Stage
from inkwash.sample.singlestep import Clock


def check_order(name: str, order: int, highest: int) -> None:
    """Raises UsageError when `order` is not 1..highest."""
    if not 1 <= order <= highest:
        raise UsageError("bad_sampler", f"{name}: order is {order}; give 1..{highest}")


@lru_cache(maxsize=1)
def _gauss(count: int = 16) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss and Legendre on (-1, 1), from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    side = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return nodes.tolist(), (2 * vectors[0] ** 2).tolist()


def integral_weights(nodes: Sequence[float], start: float, stop: float, kernel: Callable[[float], float]) -> list[float]:
    """w_j = int_start^stop kernel(u) L_j(u) du, L_j the Lagrange polynomials of `nodes`; relative error below 1e-13 for smooth kernels."""
    middle, half = (start + stop) / 2, (stop - start) / 2
    weights = [0.0] * len(nodes)
    for place, weight in zip(*_gauss(), strict=True):
        u = middle + half * place
        for j, node in enumerate(nodes):
            basis = math.prod((u - other) / (node - other) for i, other in enumerate(nodes) if i != j)
            weights[j] += half * weight * kernel(u) * basis
    return weights


@dataclass(frozen=True, repr=False)
class DPMSolverPP(Sampler):
    """Multistep DPM-Solver++ of `steps_back` 1..3, with `eta` for its SDE (Lu et al. 2022, arXiv 2211.01095, algorithm 2 and appendix B).

    With h = lam_q - lam_p, g = (1 + eta) h, D' and D'' / 2 the divided differences of x0 in lam:
    x_q = sigma_q / sigma_p e^(-eta h) x + alpha_q [(1 - e^-g) x0 + phi_2 h D' - phi_3 h^2 D''] + sigma_q sqrt(1 - e^(-2 eta h)) z,
    phi_2 = 1 - (1 - e^-g) / g and phi_3 = phi_2 / g - 1/2. Two steps back use (1 - e^-g) / 2 for phi_2, as published. Published code of
    the three-step form has D'' / 2 for D'' in the last term, and its error falls with the second power of h only; here it is the third.
    """

    steps_back: int = 2
    eta: float = 0.0
    aliases = {"dpmpp_2m": {}, "dpmpp_3m": {"steps_back": 3}, "dpmpp_2m_sde": {"eta": 1.0}, "dpmpp_3m_sde": {"steps_back": 3, "eta": 1.0}}

    def __post_init__(self) -> None:
        check_order("DPMSolverPP", self.steps_back, 3)
        check_eta("DPMSolverPP", self.eta)

    @property
    def order(self) -> int:
        return min(self.steps_back, 2) if self.eta else self.steps_back

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def stages(self, path: Path) -> Iterator[Stage]:
        past: list[float] = []                             # lam of the remembered slopes, newest first
        for p, q in pairwise(path.points):
            if p.finite and q.finite:
                yield Stage(p, self._step(p, q, past[:self.steps_back - 1]))
                past = [p.lam, *past][:2]
            else:
                yield Stage(p, ancestral(p, q, self.eta))

    def _step(self, p: Point, q: Point, past: list[float]) -> Mix:
        h = q.lam - p.lam
        g = (1 + self.eta) * h
        phi_1 = -math.expm1(-g)
        phi_2 = 1 - phi_1 / g
        new: tuple[float, ...] = (phi_1,)
        if past:
            r_0 = (p.lam - past[0]) / h
            first = (1 / r_0, -1 / r_0)                    # h D' by two points
            scale = phi_1 / 2 if self.steps_back == 2 else phi_2
            new = (phi_1 + scale * first[0], scale * first[1])
        if len(past) == 2:
            r_1 = (past[0] - past[1]) / h
            second = (0.0, 1 / r_1, -1 / r_1)
            bend = tuple((a - b) / (r_0 + r_1) for a, b in zip((*first, 0.0), second, strict=True))              # h^2 D''
            slope = tuple(a + r_0 * b for a, b in zip((*first, 0.0), bend, strict=True))                         # h D' by three points
            phi_3 = phi_2 / g - 0.5
            new = tuple((phi_1 if j == 0 else 0.0) + phi_2 * slope[j] - 2 * phi_3 * bend[j] for j in range(3))
        keep, fresh = math.exp(-self.eta * h), math.sqrt(-math.expm1(-2 * self.eta * h))
        return Mix(x=q.sigma / p.sigma * keep, h=tuple(q.alpha * weight for weight in new), z=q.sigma * fresh)


@dataclass(frozen=True, repr=False)
class DEIS(Sampler):
    """x_q = alpha_q / alpha_p x_p - alpha_q int e^-lam eps dlam with eps a polynomial in lam (Zhang & Chen 2022, arXiv 2204.13902, section 3).

    The integral is exact. `steps_back` slopes are used, at most 4.
    """

    steps_back: int = 3
    aliases = {"deis": {}}

    def __post_init__(self) -> None:
        check_order("DEIS", self.steps_back, HISTORY)

    @property
    def order(self) -> int:
        return self.steps_back

    def stages(self, path: Path) -> Iterator[Stage]:
        past: list[float] = []
        for p, q in pairwise(path.points):
            if not (p.finite and q.finite):
                yield Stage(p, ancestral(p, q))
                continue
            past = [p.lam, *past][:self.steps_back]
            start = p.lam                                  # from here, e^(lam_p - lam): nothing overflows
            weights = integral_weights([lam - start for lam in past], 0.0, q.lam - start, lambda u: math.exp(-u))
            scale = -q.alpha * p.sigma / p.alpha
            yield Stage(p, Mix(x=q.alpha / p.alpha, h=tuple(scale * weight for weight in weights)), slope=Clock(0.0).slope(p))


@dataclass(frozen=True, repr=False)
class AdamsBashforth(Sampler):
    """X_q = X_p + int D du on a straight clock, D a polynomial through the last `steps_back` slopes (at most 4); see `singlestep` for clocks.

    On the clock "sigma" with 4 slopes this is the linear multistep method of k-diffusion.
    """

    steps_back: int = 2
    clock: str = "sigma"
    aliases = {"ab": {}, "lms": {"steps_back": 4}, "ab_flow": {"clock": "flow"}}

    def __post_init__(self) -> None:
        check_order("AdamsBashforth", self.steps_back, HISTORY)

    @property
    def order(self) -> int:
        return self.steps_back

    def stages(self, path: Path) -> Iterator[Stage]:
        clock = Clock.named(self.clock)
        past: list[float] = []
        for p, q in pairwise(path.points):
            if not clock.reaches(p) or clock.scale(q) == 0:
                yield Stage(p, ancestral(p, q))
                continue
            past = [clock.u(p), *past][:self.steps_back]
            weights = integral_weights(past, clock.u(p), clock.u(q), lambda u: 1.0)
            scale = clock.scale(q)
            yield Stage(p, Mix(x=scale / clock.scale(p), h=tuple(scale * weight for weight in weights)), slope=clock.slope(p))
