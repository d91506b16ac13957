"""The forward chain in discrete time, from its transitions alone: a process whose every marginal and posterior is known without closed forms.

x_k = sqrt(1 - beta_k) x_(k-1) + sqrt(beta_k) z_k with x_0 on finitely many states. Marginals follow by pushing mean and variance through the
transitions one at a time; the posterior of x_(k-1) given x_k and x_0 by conditioning their joint Gaussian. Neither uses abar or any formula
of a paper, so agreement with what a schedule and a sampler compute (Ho et al. 2020, arXiv 2006.11239, eq. 4, 6 and 7) is no tautology.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inkwash.core.analytic import Mixture
from inkwash.verify.oracle import F64

STATES = Mixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[-1.0], [0.25], [0.75]], dtype=F64), torch.zeros(3, 1, dtype=F64))
"""Data that are one of three numbers."""


@dataclass(frozen=True)
class Chain:
    """The chain of beta_1..beta_T."""

    betas: tuple[float, ...]

    @classmethod
    def of(cls, betas: Tensor) -> Chain:
        """The chain of a table (T,)."""
        return cls(tuple(betas.tolist()))

    @cached_property
    def marginals(self) -> tuple[tuple[float, float], ...]:
        """(a, v) for k = 0..T: x_k given x_0 has mean a x_0 and variance v. By single transitions."""
        found = [(1.0, 0.0)]
        for beta in self.betas:
            a, v = found[-1]
            found.append((math.sqrt(1 - beta) * a, (1 - beta) * v + beta))
        return tuple(found)

    def posterior(self, k: int) -> tuple[float, float, float]:
        """(p, q, v): x_(k-1) given x_k and x_0 has mean p x_k + q x_0 and variance v, by conditioning the joint Gaussian."""
        beta = self.betas[k - 1]
        a, v = self.marginals[k - 1]
        keep = math.sqrt(1 - beta)
        across, after = keep * v, keep**2 * v + beta        # Cov(x_(k-1), x_k) and Var(x_k), given x_0
        gain = across / after
        return gain, a - gain * keep * a, v - gain * across
