"""Samplers of one evaluation per step and no memory.

Between levels p (noisier) and q of a Gaussian process, the posterior of x_q given x_p and x0 is

    q(x_q | x_p, x0) = N(mean, up^2),   up = sigma_q sqrt(1 - (alpha_p sigma_q / (alpha_q sigma_p))^2)

and any smaller `up` leaves the same marginals when the rest of the noise comes from x: with down = sqrt(sigma_q^2 - up^2),
x_q = alpha_q x0 + down * eps + up * z (Song et al. 2021, eq. 12). eps = (x - alpha_p x0) / sigma_p is the noise that x holds already. So
DDPM, DDIM and the ancestral Euler method of k-diffusion are one formula; that their names agree at eta = 1 is a theorem test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from inkwash.core.spacing import Path, Point
from inkwash.errors import UsageError
from inkwash.sample.plan import Mix, Sampler, Stage


def noise_split(p: Point, q: Point, eta: float) -> tuple[float, float]:
    """(down, up): how much of sigma_q comes from x and how much is fresh, down^2 + up^2 = sigma_q^2."""
    ratio = p.alpha * q.sigma / (q.alpha * p.sigma) if q.alpha else 1.0
    up = min(q.sigma, eta * q.sigma * math.sqrt(max(0.0, (1 - ratio) * (1 + ratio))))
    return math.sqrt((q.sigma - up) * (q.sigma + up)), up


def ancestral(p: Point, q: Point, eta: float = 0.0) -> Mix:
    """x_q = alpha_q x0 + down * eps + up * z, for h_0 = x0. Finite at both ends; eta = 0 is the first-order step of every ODE solver here."""
    down, up = noise_split(p, q, eta)
    return Mix(x=down / p.sigma, h=(q.alpha - down * p.alpha / p.sigma,), z=up)


def check_eta(name: str, eta: float) -> None:
    """Raises UsageError when `eta` is not 0..1."""
    if not 0 <= eta <= 1:
        raise UsageError("bad_sampler", f"{name}: eta is {eta:g}; give 0 (no fresh noise) to 1 (all of the posterior's)")


@dataclass(frozen=True, repr=False)
class DDIM(Sampler):
    """x_q = alpha_q x0 + sqrt(sigma_q^2 - up^2) eps + up z, up = eta times the posterior's deviation.

    eta = 0 is deterministic, eta = 1 is DDPM with the posterior variance (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).
    """

    eta: float = 0.0
    aliases = {"ddim": {}}
    order = 1

    def __post_init__(self) -> None:
        check_eta("DDIM", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q, self.eta))


@dataclass(frozen=True, repr=False)
class DDPM(Sampler):
    """x_q = mean + s z, mean = alpha_pq sigma_q^2 / sigma_p^2 x + alpha_q sigma_pq^2 / sigma_p^2 x0 (Ho et al. 2020, arXiv 2006.11239, eq. 6, 7, 11).

    alpha_pq = alpha_p / alpha_q and sigma_pq^2 = sigma_p^2 - alpha_pq^2 sigma_q^2 belong to the forward step q -> p; in the VP gauge and one table
    entry apart they are sqrt(1 - beta) and beta. `variance` is what s^2 is: "posterior" (beta-tilde), "forward" (beta, right for data of
    unit variance and too large below) or "none" (the mean alone: not a sampler, it shrinks the variance). No noise enters the clean level.
    """

    variance: str = "posterior"
    aliases = {"ddpm": {}, "ddpm_beta": {"variance": "forward"}}
    order = 1

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward", "none"):
            raise UsageError("bad_sampler", f"DDPM: variance is {self.variance!r}; give 'posterior', 'forward' or 'none'")

    @property
    def exact(self) -> bool:
        return self.variance == "posterior"

    @property
    def stochastic(self) -> bool:
        return self.variance != "none"

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            forward = p.alpha / q.alpha                                                                       # alpha_pq
            added = p.sigma**2 - (forward * q.sigma) ** 2                                                     # sigma_pq^2
            if self.variance == "posterior":
                s = math.sqrt(max(0.0, added)) * q.sigma / p.sigma                                            # eq. 7, beta-tilde
            else:
                scale = (q.alpha**2 + q.sigma**2) / (p.alpha**2 + p.sigma**2)                                 # beta is meant in the VP gauge
                s = math.sqrt(max(0.0, added * scale)) if q.sigma > 0 and self.variance == "forward" else 0.0
            yield Stage(p, Mix(x=forward * (q.sigma / p.sigma) ** 2, h=(q.alpha * added / p.sigma**2,), z=s))


@dataclass(frozen=True, repr=False)
class Euler(Sampler):
    """Euler's method for dX/ds = eps, X = x / alpha and s = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, eq. 1 and algorithm 1, no churn).

    Straight lines are straight in every gauge, so this is also Euler's method for dx/dt = eps - x0 of rectified flow, and equals DDIM.
    """

    aliases = {"euler": {}}
    order = 1

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q))


@dataclass(frozen=True, repr=False)
class EulerAncestral(Sampler):
    """Euler's method to s_down, then noise s_up, s_up^2 = eta^2 s_q^2 (1 - s_q^2 / s_p^2), with s = sigma / alpha (Crowson, k-diffusion, 2022)."""

    eta: float = 1.0
    aliases = {"euler_a": {}}
    order = 1

    def __post_init__(self) -> None:
        check_eta("EulerAncestral", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q, self.eta))


@dataclass(frozen=True, repr=False)
class Consistency(Sampler):
    """x_q = alpha_q x0 + sigma_q z: jump to the image, noise it again (Song et al. 2023, arXiv 2303.01469, algorithm 1; Luo et al. 2023, 2310.04378).

    Right for a network that was distilled to jump; with E[x0 | x] of an ordinary denoiser the images are too smooth, so no order is claimed.
    """

    aliases = {"lcm": {}, "consistency": {}}
    order = 0
    stochastic = True

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, Mix(h=(q.alpha,), z=q.sigma))


@dataclass(frozen=True, repr=False)
class EulerMaruyama(Sampler):
    """dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dw from noise to image, by Euler and Maruyama.

    In the VP gauge: x_q = x (1 + A) + (1 + eta^2) / 2 V score + eta sqrt(V) z. With `clock` = "beta" the step is the integral of beta(t),
    A = log(alpha_q / alpha_p), V = 2 A; with "lam" it is a step in lam, A = sigma_p^2 (lam_q - lam_p), V = 2 A. eta = 1 is the reverse SDE,
    eta = 0 the probability flow ODE (Song et al. 2021, arXiv 2011.13456, eq. 6 and 13). Unlike DDIM it does not know
    that the drift is linear: it is here to compare, and to teach.
    Steps from pure noise or to the clean image are the posterior's, since V or the score is infinite there.
    """

    eta: float = 1.0
    clock: str = "beta"
    aliases = {"sde": {}, "ode": {"eta": 0.0}, "ode_lam": {"eta": 0.0, "clock": "lam"}}
    order = 1
    exact = False

    def __post_init__(self) -> None:
        check_eta("EulerMaruyama", self.eta)
        if self.clock not in ("beta", "lam"):
            raise UsageError("bad_sampler", f"EulerMaruyama: clock is {self.clock!r}; give 'beta' or 'lam'")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            if not (p.finite and q.finite):
                yield Stage(p, ancestral(p, q, self.eta))
                continue
            unit_p, unit_q = math.hypot(*p), math.hypot(*q)                                                   # to the VP gauge and back
            alpha, sigma = p.alpha / unit_p, p.sigma / unit_p
            drift = math.log(q.alpha / unit_q / alpha) if self.clock == "beta" else sigma**2 * (q.lam - p.lam)
            push = (1 + self.eta**2) * drift / sigma**2                                                       # times alpha x0 - x, the score
            yield Stage(p, unit_q * Mix(x=(1 + drift - push) / unit_p, h=(push * alpha,), z=self.eta * math.sqrt(max(0.0, 2 * drift))))
