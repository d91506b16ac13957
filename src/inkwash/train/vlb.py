"""The variational bound of -log p(x0), term by term, in nats (Ho et al. 2020, arXiv 2006.11239; Kingma et al. 2021, arXiv 2107.00630).

    -log p(x0) <= KL(q(x_T | x0) || N(0, 1))  +  sum_i KL(q(x_{i-1} | x_i, x0) || p(x_{i-1} | x_i))  +  E[-log p(x0 | x_0')]
                       prior                             steps                                             reconstruction

For a sampler with the posterior's variance each step is (SNR_{i-1} - SNR_i) / 2 |x0 - x0^(x_i)|^2, whatever the network predicts. The
first level x_0' is a little noisy; p(x0 | x_0') = N(x_0' / alpha, (sigma / alpha)^2). Everything is computed in the VP gauge, where x_T ~ N(0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Gauge, Level
from inkwash.core.noise import generator
from inkwash.core.schedule import Schedule

Denoise = Callable[[Tensor, Level, Cond], Tensor]


class Bound(NamedTuple):
    """Nats of each sample: `prior` (B,), `steps` (B, T) from the cleanest to the noisiest, `reconstruction` (B,)."""

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """Upper bound of -log p(x0), (B,)."""
        return self.prior + self.steps.sum(1) + self.reconstruction

    def bits_per_dim(self, dims: int) -> Tensor:
        """The total in bits per dimension, (B,)."""
        return self.total / (dims * math.log(2))


def prior_kl(x0: Tensor, level: Level) -> Tensor:
    """KL(N(alpha x0, sigma^2) || N(0, 1)) for a VP level (): (B, ...) -> (B,)."""
    alpha, variance = level.alpha.to(x0), level.sigma.to(x0).square()
    return 0.5 * ((alpha * x0).square() + variance - 1 - variance.log()).flatten(1).sum(1)


def step_kl(x0: Tensor, estimate: Tensor, cleaner: Level, noisier: Level) -> Tensor:
    """(SNR_cleaner - SNR_noisier) / 2 |x0 - estimate|^2: (B, ...) twice -> (B,)."""
    return 0.5 * (cleaner.snr - noisier.snr).to(x0) * (x0 - estimate).square().flatten(1).sum(1)


def reconstruction(x0: Tensor, x: Tensor, level: Level) -> Tensor:
    """-log N(x0; x / alpha, (sigma / alpha)^2): (B, ...) twice -> (B,)."""
    std = (level.sigma / level.alpha).to(x0)
    return 0.5 * (((x0 - x / level.alpha.to(x0)) / std).square() + (2 * math.pi * std.square()).log()).flatten(1).sum(1)


@torch.no_grad()
def bound(denoise: Denoise, x0: Tensor, schedule: Schedule, num_steps: int, cond: Cond | None = None, *, seed: int = 0, low: float = 1e-3) -> Bound:
    """One estimate of the bound with `num_steps` steps between t = `low` and t = 1, one noise per term. x0 (B, ...) in model space.

    Use float64 for x0 where terms are compared with exact values.
    """
    cond = Cond.none(len(x0)) if cond is None else cond
    lam = schedule.lam(torch.linspace(low, 1, num_steps + 1, dtype=torch.float64))      # (T + 1,), decreasing
    levels = Gauge.VP.split(lam)

    def at(i: int) -> tuple[Tensor, Level]:
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator(seed, 0, i, "vlb")).to(x0.device)
        one = Level(levels.alpha[i], levels.sigma[i])
        return one.mix(x0, eps), one

    first, cleanest = at(0)
    steps = []
    for i in range(1, num_steps + 1):
        x, level = at(i)
        batch = Level(level.alpha.expand(len(x0)), level.sigma.expand(len(x0)))
        steps.append(step_kl(x0, denoise(x, batch, cond).to(x0), Level(levels.alpha[i - 1], levels.sigma[i - 1]), level))
    return Bound(prior_kl(x0, level), torch.stack(steps, 1), reconstruction(x0, first, cleanest))
