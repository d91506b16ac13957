"""UniPC: a multistep predictor whose next evaluation also corrects the step that led to it, at no extra cost.

With h = lam_q - lam_p and D_j = x0_j - x0_p at the remembered levels r_j = (lam_j - lam_p) / h,

    x_q = sigma_q / sigma_p x_p + alpha_q (1 - e^-h) (x0_p + sum_j rho_j D_j / r_j)

and rho solves sum_j rho_j r_j^(i-1) = i! phi_(i+1)(-h) / phi_1(-h), i = 1, 2, .., where phi_1(z) = (e^z - 1) / z and
phi_(k+1)(z) = (phi_k(z) - 1 / k!) / z (Zhao et al. 2023, arXiv 2302.04867, eq. 8 and 9, with B(h) = e^-h - 1).
The predictor knows levels up to p; the corrector repeats the step with the new x0_q as r = 1. In the table base is the corrected x of
the level before, so a row first mixes the corrected x and then the prediction from it: one linear mix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from inkwash.core.spacing import Path, Point
from inkwash.sample.multistep import check_order
from inkwash.sample.onestep import ancestral
from inkwash.sample.plan import Mix, Sampler, Stage


def _solve(r: Sequence[float], h: float) -> list[float]:
    """rho_j (len(r),): the moments of the exact integral."""
    moments, phi, factorial = [], -math.expm1(-h), 1.0     # h phi_1(-h)
    phi_k = 1 - phi / h                                    # h phi_2(-h)
    for i in range(1, len(r) + 1):
        moments.append(phi_k * factorial / phi)
        factorial *= i + 1
        phi_k = 1 / factorial - phi_k / h
    powers = torch.tensor([[x ** i for x in r] for i in range(len(r))], dtype=torch.float64)
    return [float(rho) for rho in torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))]


def _step(p: Point, q: Point, r: Sequence[float], rho: Sequence[float]) -> tuple[float, float, list[float]]:
    """(weight of x_p, weight of x0_p, weights of x0_j)."""
    scale = -q.alpha * math.expm1(p.lam - q.lam)
    others = [scale * weight / place for weight, place in zip(rho, r, strict=True)]
    return q.sigma / p.sigma, scale - sum(others), others


@dataclass(frozen=True, repr=False)
class UniPC(Sampler):
    """UniPC-p in data form with p = `steps_back` (Zhao et al. 2023, algorithms 1-2). The corrected trajectory has order p + 1."""

    steps_back: int = 2
    aliases = {"unipc": {}, "unipc_3": {"steps_back": 3}}

    def __post_init__(self) -> None:
        check_order("UniPC", self.steps_back, 3)

    @property
    def order(self) -> int:
        return self.steps_back + 1

    def stages(self, path: Path) -> Iterator[Stage]:
        before: Point | None = None                        # the level of the row before, when its step can be corrected
        past: list[float] = []                             # lam of the remembered x0, newest first: before, and earlier
        for p, q in pairwise(path.points):
            here = Mix(x=1.0) if before is None else self._corrected(before, p, past)
            if p.finite and q.finite:
                nodes = past[:self.steps_back - 1]
                yield Stage(p, self._predicted(p, q, nodes, here), here)
                past, before = [p.lam, *past][:self.steps_back], p
            else:
                yield Stage(p, ancestral(p, q), here)

    def _predicted(self, p: Point, q: Point, nodes: list[float], here: Mix) -> Mix:
        h = q.lam - p.lam
        r = [(lam - p.lam) / h for lam in nodes]
        rho = [0.5] if len(r) == 1 else _solve(r, h) if r else []                                             # one node: 1/2 as published
        keep, own, others = _step(p, q, r, rho)
        return keep * here + Mix(h=(own, *others))

    def _corrected(self, p: Point, q: Point, past: list[float]) -> Mix:
        """The step p -> q again, now that x0_q = h_0 is known; x0_p is h_1 and the older ones follow."""
        h = q.lam - p.lam
        r = [(lam - p.lam) / h for lam in past[1:self.steps_back]] + [1.0]
        rho = [0.5] if len(r) == 1 else _solve(r, h)
        keep, own, others = _step(p, q, r, rho)
        return Mix(base=keep, h=(others[-1], own, *others[:-1]))
