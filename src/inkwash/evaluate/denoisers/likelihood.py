"""log p(x0) of a model, exactly by its probability flow ODE and from below by the variational bound.

In the VP gauge with the angle phi = atan2(sigma, alpha) for time, the ODE is dx / dphi = v(x, phi) = alpha eps - sigma x0, finite from the
clean image (v = 0 there) to pure noise. A density carried along changes by d log p / dphi = -div v (Chen et al. 2018, arXiv 1806.07366), so

    log p(x0) = log N(x_T; 0, I) + int div v dphi                           (Song et al. 2021, arXiv 2011.13456, eq. 39)

div v is exact with one backward pass per dimension, or unbiased with Rademacher probes z as E z' (dv / dx) z (Hutchinson 1990; Grathwohl et al.
2018, arXiv 1810.01367). The bound splits log p into KL_T, one KL per step and a Gaussian decoder; with equal variances each step costs
(SNR_q - SNR_p) / 2 E|x0 - x0_hat|^2 (Kingma et al. 2021, arXiv 2107.00630, eq. 13).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Path
from inkwash.errors import UsageError
from inkwash.guide.evaluate import Denoise


class Likelihood(NamedTuple):
    """What `log_likelihood` found."""

    log_prob: Tensor                                       # (B,) nats
    latent: Tensor                                         # (B, ...) where the flow ends, N(0, I) if the model is right
    evaluations: int                                       # of the denoiser, per sample; each has a backward pass per dimension or probe

    def bits_per_dimension(self, bin_width: float = 1.0) -> Tensor:
        """(B,): -log2 of the probability of a bin of `bin_width` per dimension; 8-bit pixels scaled to [-1, 1] have 2 / 255."""
        return bits_per_dimension(self.log_prob, self.latent[0].numel(), bin_width)


def bits_per_dimension(log_prob: Tensor, dimensions: int, bin_width: float = 1.0) -> Tensor:
    """-log2(p) / D - log2(bin_width) from log densities in nats (...,). With uniform dequantisation it bounds the cost of 8-bit data."""
    return -log_prob / (dimensions * math.log(2)) - math.log2(bin_width)


def log_likelihood(denoise: Denoise, schedule: Schedule, x0: Tensor, cond: Cond | None = None, *, steps: int = 100, probes: int | None = None,
                   seed: int = 0) -> Likelihood:
    """log p(x0) of clean samples x0 (B, ...) by `steps` Runge-Kutta steps of order 4 on the flow, 4 evaluations each.

    `probes` = None takes the exact divergence, one backward pass per dimension; a number takes that many random probes, the same along the
    whole path. The steps are shorter near the image: phi_i = phi_T (i / n)^2. The prior stands at the schedule's terminal level; where that
    keeps a share alpha_T of the data, N(0, I) is off by as much. Raises UsageError `bad_steps`.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise UsageError("bad_steps", f"steps is {steps} and probes {probes}; give at least 1 of each, or probes=None for the exact divergence")
    cond = Cond.none(len(x0)) if cond is None else cond
    z = None if probes is None else torch.stack([2.0 * (noise.uniform(x0.shape, seed, 0, k, "probe") < 0.5) - 1 for k in range(probes)]).to(x0)
    terminal = schedule(1.0)
    last = float(torch.atan2(terminal.sigma, terminal.alpha))
    grid = [last * (i / steps) ** 2 for i in range(steps + 1)]
    x, total = x0, torch.zeros(len(x0), dtype=torch.float64)

    def field(x: Tensor, phi: float) -> tuple[Tensor, Tensor]:
        return velocity(denoise, x, phi, cond, z)

    for phi, after in pairwise(grid):
        h = after - phi
        k_1, d_1 = field(x, phi)
        k_2, d_2 = field(x + h / 2 * k_1, phi + h / 2)
        k_3, d_3 = field(x + h / 2 * k_2, phi + h / 2)
        k_4, d_4 = field(x + h * k_3, after)
        x = x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        total = total + h / 6 * (d_1 + 2 * d_2 + 2 * d_3 + d_4)
    flat = x.flatten(1).double().cpu()
    prior = -0.5 * (flat.square() + math.log(2 * math.pi)).sum(1)
    return Likelihood(prior + total, x, 4 * steps - 1)


def velocity(denoise: Denoise, x: Tensor, phi: float, cond: Cond, z: Tensor | None) -> tuple[Tensor, Tensor]:
    """v (B, ...) and its divergence (B,) float64 at the angle phi; exact for z = None, else the mean over probes z (K, B, ...)."""
    if phi == 0:
        return torch.zeros_like(x), torch.zeros(len(x), dtype=torch.float64)               # E[eps | x] = -sigma grad log p vanishes
    level = Level(*(torch.full((len(x),), part, dtype=torch.float64) for part in (math.cos(phi), math.sin(phi))))
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        v = (math.cos(phi) * leaf - denoise(leaf, level, cond)) / math.sin(phi)                # alpha eps - sigma x0, eps = (x - alpha x0) / sigma
        flat = v.flatten(1)
        if z is None:
            parts = [_pull(flat[:, i].sum(), leaf).flatten(1)[:, i] for i in range(flat.shape[1])]
            divergence = torch.stack(parts).double().sum(0)
        else:
            parts = [(_pull((v * probe).sum(), leaf) * probe).flatten(1).double().sum(1) for probe in z]
            divergence = torch.stack(parts).mean(0)
    return v.detach(), divergence.detach().cpu()


def _pull(value: Tensor, leaf: Tensor) -> Tensor:
    gradient: Tensor = torch.autograd.grad(value, leaf, retain_graph=True)[0]
    return gradient


class Bound(NamedTuple):
    """The terms of -log p(x0) <= prior + sum of steps + decoder, in nats, averaged over the noise that was drawn."""

    prior: Tensor                                          # (B,) KL of the noised data from N(0, I) at the first level
    steps: Tensor                                          # (B, n - 1) one KL per step, noisy to clean; the last level is decoded
    decoder: Tensor                                        # (B,) -log of the decoder at the last noisy level

    @property
    def total(self) -> Tensor:
        """(B,): an upper bound of -log p(x0)."""
        return self.prior + self.steps.sum(1) + self.decoder


@torch.no_grad()
def variational_bound(denoise: Denoise, path: Path, x0: Tensor, cond: Cond | None = None, *, draws: int = 1, seed: int = 0) -> Bound:
    """The bound of clean samples x0 (B, ...) for the discrete chain through the noisy levels of `path`.

    Each step is q(x_q | x_p, x0) against the same with x0_hat(x_p) for x0; the decoder is N(x0_hat, (sigma / alpha)^2) at the last noisy level.
    The gap closes when the levels are even in lam and many; even steps in t leave the last ones, where SNR jumps by factors, a constant apart.
    The expectation over x_p is the mean over `draws` noises. The first level may be pure noise; VE levels are taken in the VP gauge.
    """
    cond = Cond.none(len(x0)) if cond is None else cond
    lam = path.levels.lam[path.levels.sigma > 0]
    levels, dim = Gauge.VP.split(lam), x0[0].numel()
    squares = torch.zeros(len(x0), len(lam), dtype=torch.float64)                          # |x0 - x0_hat|^2 at every level
    for draw in range(draws):
        for k in range(len(lam)):
            level = Level(levels.alpha[k].expand(len(x0)), levels.sigma[k].expand(len(x0)))
            x = level.mix(x0, noise.normal(x0.shape, seed, draw, k, "bound").to(x0))
            squares[:, k] += (x0 - denoise(x, level, cond)).flatten(1).double().square().sum(1).cpu() / draws
    first, snr = Level(levels.alpha[0], levels.sigma[0]), levels.snr
    mean = first.alpha**2 * x0.flatten(1).double().cpu().square().sum(1)
    prior = 0.5 * (mean + dim * (first.sigma**2 - 1 - 2 * first.sigma.log()))
    steps = 0.5 * (snr[1:] - snr[:-1]) * squares[:, :-1]
    decoder = 0.5 * (snr[-1] * squares[:, -1] + dim * (math.log(2 * math.pi) - snr[-1].log()))
    return Bound(prior, steps, decoder)
