"""A noise level and the three gauges in which it can be written.

A noisy image is x = alpha * x0 + sigma * eps. Only the ratio lam = log(alpha / sigma), half the log-SNR, says how noisy x is; the common
factor of alpha and sigma is a choice of units, the gauge:

    VP    alpha^2 + sigma^2 = 1     variance stays near 1 (DDPM)
    VE    alpha = 1                 variance grows (EDM, k-diffusion)
    FLOW  alpha + sigma = 1         straight lines (rectified flow)

The same image moves between gauges by one factor, so a sampler, a network and a schedule may each use their own.
Source: Kingma et al. 2021 (arXiv 2107.00630); Karras et al. 2022 (arXiv 2206.00364); Liu et al. 2022 (arXiv 2209.03003).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """x = alpha * x0 + sigma * eps. Both (...,) float64 on the host unless made by `like`."""

    alpha: Tensor
    sigma: Tensor

    @property
    def lam(self) -> Tensor:
        """log(alpha / sigma), half the log-SNR (...,); +inf when clean, -inf when pure noise."""
        return self.alpha.log() - self.sigma.log()

    @property
    def snr(self) -> Tensor:
        """alpha^2 / sigma^2 (...,)."""
        return (self.alpha / self.sigma) ** 2

    def like(self, x: Tensor) -> Level:
        """The same level in x's dtype and device, shaped to broadcast over x (B, ...)."""
        return Level(*(broadcast(part, x) for part in self))

    def mix(self, x0: Tensor, eps: Tensor) -> Tensor:
        """x = alpha * x0 + sigma * eps, for x0 and eps of shape (B, ...)."""
        alpha, sigma = self.like(x0)
        return alpha * x0 + sigma * eps

    def eps(self, x: Tensor, x0: Tensor) -> Tensor:
        """The noise in x when the clean image is x0: (x - alpha * x0) / sigma. Needs sigma > 0."""
        alpha, sigma = self.like(x)
        return (x - alpha * x0) / sigma

    def take(self, index: Tensor) -> Level:
        """The levels at `index` (N,)."""
        return Level(self.alpha[index], self.sigma[index])


class Clean(NamedTuple):
    """Samples without noise, in model space: the only kind that may be decoded. An encoder or the end of sampling makes one."""

    x: Tensor                                              # (...) one sample or (B, ...)


class Gauge(Enum):
    """How lam splits into (alpha, sigma)."""

    VP = "VP"
    VE = "VE"
    FLOW = "FLOW"

    def split(self, lam: Tensor) -> Level:
        """The level of half-log-SNR `lam` (...,), exact at lam = +inf and, where the gauge reaches it, at lam = -inf (VE gives sigma = inf)."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        if self is Gauge.VP:
            return Level(torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt())
        if self is Gauge.VE:
            return Level(torch.ones_like(lam), torch.exp(-lam))
        return Level(torch.sigmoid(lam), torch.sigmoid(-lam))


def broadcast(scalar: Tensor, x: Tensor) -> Tensor:
    """A scalar () or one per sample (B,), cast to x's dtype and device and shaped (B, 1, ...) to broadcast over x (B, ...)."""
    scalar = scalar.to(x)
    return scalar if scalar.ndim == 0 else scalar.reshape(scalar.shape + (1,) * (x.ndim - scalar.ndim))


def rescale(x: Tensor, level: Level, gauge: Gauge) -> tuple[Tensor, Level]:
    """The same noisy image x (B, ...) in another gauge: x' = x * |(alpha', sigma')| / |(alpha, sigma)|, and its level there.

    Not defined for pure noise in the VE gauge, where sigma is infinite.
    """
    other = gauge.split(level.lam)
    factor = torch.hypot(other.alpha, other.sigma) / torch.hypot(level.alpha, level.sigma)
    return x * broadcast(factor, x), other
