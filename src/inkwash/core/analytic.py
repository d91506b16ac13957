"""Data whose denoiser is known exactly: oracles for everything that samples or trains.

Let the data be a mixture of Gaussians, p(x0) = sum_k w_k N(m_k, diag v_k). Then x = alpha x0 + sigma eps is one too, with means alpha m_k
and variances s_k^2 = alpha^2 v_k + sigma^2, and by Bayes

    p(k | x) ~ w_k N(x; alpha m_k, s_k^2)                               the class posterior
    E[x0 | x] = sum_k p(k | x) (m_k + alpha v_k / s_k^2 (x - alpha m_k))  the denoiser
    grad log p(x) = (alpha E[x0 | x] - x) / sigma^2                     the score (Tweedie's formula)

A single Gaussian and a point (v = 0) are mixtures of one. The probability flow ODE keeps (x - alpha m) / s of a Gaussian, and every
quantile of a mixture in one dimension; so both have exact solutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.core.level import Level


def _row(level: Level, x: Tensor) -> Level:
    """alpha and sigma as (B or 1, 1, 1) against (B, K, D), in x's dtype."""
    return Level(*(part.to(x).reshape(-1, 1, 1) for part in level))


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(m_k, diag v_k) over vectors of D numbers. Noisy vectors x are (B, D); a Level is () or (B,); v_k may be 0, a point."""

    weights: Tensor                                        # (K,) positive, summing to 1
    means: Tensor                                          # (K, D)
    variances: Tensor                                      # (K, D)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` clean vectors (count, D)."""
        return self.sample_labelled(count, generator)[0]

    def sample_labelled(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean vectors (count, D) and the components (count,) that they come from."""
        label = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[label] + self.variances[label].sqrt() * z, label

    def mean(self) -> Tensor:
        """The mean of the data (D,)."""
        return self.weights @ self.means

    def variance(self) -> Tensor:
        """The variance of the data (D,)."""
        return self.weights @ (self.variances + (self.means - self.mean()) ** 2)

    def component(self, k: int) -> Mixture:
        """The data of class k alone: what a conditional denoiser knows."""
        return Mixture(torch.ones_like(self.weights[:1]), self.means[k:k + 1], self.variances[k:k + 1])

    def joint(self, x: Tensor, level: Level) -> Tensor:
        """log w_k + log N(x; alpha m_k, alpha^2 v_k + sigma^2), (B, K)."""
        alpha, sigma = _row(level, x)
        spread = alpha**2 * self.variances + sigma**2                                                         # (B, K, D)
        away = (x[:, None] - alpha * self.means) ** 2 / spread
        return self.weights.log() - 0.5 * (away + spread.log() + math.log(2 * math.pi)).sum(-1)

    def log_prob(self, x: Tensor, level: Level) -> Tensor:
        """log p(x) of the noisy data (B,)."""
        return self.joint(x, level).logsumexp(-1)

    def posterior(self, x: Tensor, level: Level) -> Tensor:
        """p(k | x) (B, K)."""
        return self.joint(x, level).softmax(-1)

    def denoise(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x] (B, D)."""
        alpha, sigma = _row(level, x)
        gain = (alpha * self.variances / (alpha**2 * self.variances + sigma**2)).nan_to_num(0.0)               # 0 / 0: a point, at sigma = 0
        each = self.means + gain * (x[:, None] - alpha * self.means)                                          # (B, K, D)
        if len(self.weights) == 1:
            return each[:, 0]
        return (self.posterior(x, level)[:, :, None] * each).sum(1)

    def score(self, x: Tensor, level: Level) -> Tensor:
        """grad log p(x) (B, D), for sigma > 0."""
        alpha, sigma = (part[:, 0] for part in _row(level, x))
        return (alpha * self.denoise(x, level) - x) / sigma**2

    def classify(self, x: Tensor, level: Level) -> Tensor:
        """grad log p(k | x) for every class, (B, K, D): what an exact noisy classifier returns."""
        alpha, sigma = _row(level, x)
        each = -(x[:, None] - alpha * self.means) / (alpha**2 * self.variances + sigma**2)
        return each - (self.posterior(x, level)[:, :, None] * each).sum(1, keepdim=True)

    def cdf(self, x: Tensor, level: Level) -> Tensor:
        """P(X <= x) of noisy data with D = 1, (B, 1)."""
        alpha, sigma = _row(level, x)
        deviation = (alpha**2 * self.variances + sigma**2).sqrt()
        below: Tensor = torch.special.ndtr((x[:, None] - alpha * self.means) / deviation)                     # (B, K, 1)
        return (self.weights[:, None] * below).sum(1)

    def flow(self, x: Tensor, start: Level, stop: Level) -> Tensor:
        """The exact solution at level `stop` of the probability flow ODE that passes through x (B, D) at level `start`. Both levels are ().

        One component in any dimension, or any mixture with D = 1 (there the flow keeps P(X <= x); solved by bisection to about 1e-13).
        """
        if len(self.weights) == 1:
            mean, variance = self.means[0], self.variances[0]
            before, after = (torch.sqrt(level.alpha**2 * variance + level.sigma**2) for level in (start, stop))
            return stop.alpha * mean + (x - start.alpha * mean) * after / before
        if x.shape[1] != 1:
            raise ValueError("the flow of a mixture has a closed form in one dimension only")
        target = self.cdf(x, start)
        reach = float((stop.alpha * self.means.abs()).max() + 12 * torch.sqrt(stop.alpha**2 * self.variances + stop.sigma**2).max())
        low, high = torch.full_like(x, -reach), torch.full_like(x, reach)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle, stop) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def gaussian(mean: Tensor, variance: Tensor) -> Mixture:
    """N(mean, diag variance), both (D,)."""
    return Mixture(torch.ones(1, dtype=mean.dtype), mean[None], variance[None])


def point(x0: Tensor) -> Mixture:
    """Data that is always x0 (D,)."""
    return gaussian(x0, torch.zeros_like(x0))
