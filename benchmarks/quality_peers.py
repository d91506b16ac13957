"""What each peer's own recipe is, as the network, loss, optimizer and average of one training loop.

diffusers: `examples/unconditional_image_generation` with its example command (batch 16, AdamW 1e-4 with betas 0.95 and 0.999, 500 steps of warmup,
cosine, flips, EMA with warmup and power 3/4, linear betas, eps) and the network of its `google/ddpm-cifar10-32`. lucidrains: the README of
denoising-diffusion-pytorch (dim 64, 1-2-4-8, batch 32 twice, Adam 8e-5, EMA 0.995 every 10 steps, flips, sigmoid schedule, v). Their trainers want
torchvision and accelerate, so the loop is ours; networks, schedules and losses are theirs. Both run in bfloat16 autocast, channels last, which
neither recipe does on a CPU by itself and which makes both faster; the cosine of diffusers ends at the budget, and its warmup after a twentieth of
that at the latest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import peers
import torch
from torch import Tensor, nn

STEPS = 1000                                               # of both training schedules


class Recipe(NamedTuple):
    """`loss` maps x0 (B, C, H, W), of about unit size, and what the network is told to one number; `rate` maps (step, spent share of the budget) to
    a factor of lr; `decay` maps the step just made to the EMA's decay, None to leave the average alone."""

    network: nn.Module
    loss: Callable[..., Tensor]
    batch: int
    accumulate: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    rate: Callable[[int, float], float]
    decay: Callable[[int], float | None]


def eps_loss(network: nn.Module) -> Callable[..., Tensor]:
    """The loss of diffusers' examples: the mean squared error of eps, on linear betas."""
    scheduler = peers.diffusers().DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear", prediction_type="epsilon")

    def loss(x0: Tensor, *told: Tensor) -> Tensor:
        noise = torch.randn_like(x0)
        t = torch.randint(0, STEPS, (len(x0),))
        return (network(scheduler.add_noise(x0, noise, t), t, *told).sample.float() - noise).square().mean()  # type: ignore[no-any-return]

    return loss


def warmup(step: int, spent: float) -> float:
    """The 500 steps of diffusers' examples, or a twentieth of the budget where that is shorter."""
    return min(1.0, max((step + 1) / 500, spent / 0.05))


def unconditional(network: nn.Module, batch: int, accumulate: int = 1) -> Recipe:
    """The settings of diffusers' `train_unconditional`."""

    def decay(step: int) -> float:
        return max(0.0, min(0.9999, 1 - (1 + step) ** -0.75)) if step > 1 else 0.0

    return Recipe(network, eps_loss(network), batch, accumulate, 1e-4, (0.95, 0.999), 1e-6,
                  lambda step, spent: warmup(step, spent) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent))), decay)


def diffusers() -> Recipe:
    """The example's settings; CIFAR-10's network."""
    return unconditional(peers.their_unet(peers.CIFAR10), 16)


def lucidrains(size: int = 32, channels: int = 3) -> Recipe:
    """The README's settings, on pixels, or on latents where there are other than three channels."""
    library = peers.lucidrains()
    network = library.Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=channels, flash_attn=True)
    diffusion = library.GaussianDiffusion(network, image_size=size, timesteps=STEPS, auto_normalize=channels == 3)

    def loss(x0: Tensor) -> Tensor:
        return diffusion((x0 + 1) / 2 if channels == 3 else x0)  # type: ignore[no-any-return]

    def decay(step: int) -> float | None:
        if step % 10:
            return None
        return 0.0 if step <= 100 else max(0.0, min(0.995, 1 - (step - 100) ** (-2 / 3)))

    return Recipe(network, loss, 32, 2, 8e-5, (0.9, 0.99), 0.0, lambda step, spent: 1.0, decay)


RECIPES: dict[str, Callable[[], Recipe]] = {"diffusers": diffusers, "lucidrains": lucidrains}
