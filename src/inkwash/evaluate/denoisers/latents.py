"""Do the stored statistics of a latent space fit the network? The network itself says: under the right ones, pictures are most likely.

A codec's latents z become x0 = (z - mean) / std. A wrong mean or std does not crash; all noise levels shift and pictures come out pale or
burnt. But a denoiser knows the density of what it was trained on (Kingma et al. 2021, arXiv 2107.00630; Kong et al. 2023, arXiv 2302.03792):

    -log p(z) = log std - log N(x0; 0, 1) + 1/2 int (E|x0 - x0_hat|^2 - 1 / (1 + snr)) d snr            per number

So statistics can be compared on the same pictures: the right ones give the least. This holds also for pictures of one kind only, whose own
mean and std are not those of all training data. The integral is a sum over lam, d snr = 2 snr d lam. Statistics that are one too many (std
twice as large, sigma_data half) are the same labels twice: then x0 / sigma_data is what counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Gauge
from inkwash.denoiser import Denoiser

LAMS = tuple(float(lam) for lam in range(-2, 5))
MARGIN = 0.05                                              # nats per number by which other statistics must be more likely to accuse,
DEVIATIONS = 3.0                                           # and by this many standard errors over pictures


class Fit(NamedTuple):
    """Other statistics: by how many nats per number the pictures are more likely under them (negative: less), and in standard errors."""

    name: str
    gain: float
    deviations: float

    @property
    def better(self) -> bool:
        """Whether they accuse the declared ones."""
        return self.gain > MARGIN and self.deviations >= DEVIATIONS


def surprise(denoiser: Denoiser, z: Tensor, mean: Tensor, std: Tensor, cond: Cond, seed: int = 0) -> Tensor:
    """-log p(z) per number and picture (B,), up to a constant, of raw latents z (B, C, h, w) under statistics mean and std (1, C, 1, 1)."""
    x0 = (z - mean) / std
    total = 0.5 * x0.square().flatten(1).mean(1) + std.log().mean()
    for k, lam in enumerate(LAMS):
        level = Gauge.VP.split(torch.full((len(z),), lam, dtype=torch.float64))
        x = level.mix(x0, noise.normal(x0.shape, seed, 0, k, "statistics").to(x0))
        snr = float(level.snr[0])
        error = (denoiser(x, level, cond) - x0).square().flatten(1).mean(1)
        width = (LAMS[1] - LAMS[0]) * (0.5 if k in (0, len(LAMS) - 1) else 1.0)
        total = total + width * snr * (error - 1 / (1 + snr))
    return total


def other_statistics(denoiser: Denoiser, z: Tensor, mean: Tensor, std: Tensor, cond: Cond) -> tuple[Fit, ...]:
    """Tries other statistics than mean and std (C,) on raw latents z (B, C, h, w), most likely first.

    Tried: none at all, no mean, one std for all channels, the pictures' own, std times 0.18215, 1/2, 2 and 5.49 and inverted, and downhill of
    the gradient the std of each channel and all means. About C + 10 times 7 network calls of B samples, and one of them with gradients.
    """
    mean, std = mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
    m, log_s = mean.clone().requires_grad_(), std.log().requires_grad_()
    with torch.enable_grad():
        found = surprise(denoiser, z, m, log_s.exp(), cond)
        down_m, down_s = torch.autograd.grad(found.mean(), (m, log_s))
    declared = found.detach()
    own_mean, own_std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    tried = {"no statistics": (torch.zeros_like(mean), torch.ones_like(std)), "no mean": (torch.zeros_like(mean), std),
             "one std for all channels": (mean, torch.full_like(std, float(std.log().mean().exp()))), "the inverse of std": (mean, 1 / std),
             "the pictures' own": (own_mean, own_std), "the pictures' own std": (mean, own_std),
             **{f"{factor:g} times std": (mean, factor * std) for factor in (0.18215, 0.5, 2.0, 5.49)},
             "other means": (mean - 0.5 * std * down_m.sign(), std)}
    for c in range(std.shape[1]):
        factor = torch.ones_like(std)
        factor[0, c] = float(torch.exp(-0.5 * down_s[0, c].sign()))
        tried[f"{float(factor[0, c]):.2f} times std of channel {c}"] = (mean, std * factor)
    fits = []
    with torch.no_grad():
        for name, (other_mean, other_std) in tried.items():
            gain = (declared - surprise(denoiser, z, other_mean, other_std, cond)).double().nan_to_num(-1e3)
            fits.append(Fit(name, float(gain.mean()), float(gain.mean() / (gain.std() / len(gain) ** 0.5).clamp(min=1e-12))))
    return tuple(sorted(fits, key=lambda fit: -fit.gain))
