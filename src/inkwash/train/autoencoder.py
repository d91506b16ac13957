"""Training an autoencoder: reconstruction that keeps edges, a small KL divergence, and what two networks say that look at the pictures.

    L = l1 |x - x'| + l2 |x - x'|^2 + edges sum_s (|D x_s - D x'_s| + |Lap x_s - Lap x'_s|) / S + kl KL(q(z|x) || N(0, 1))
        + perceptual d(x, x') - adversarial mean P(x')

with x_s the image at 1, 1/2 and 1/4 of its size and D, Lap the differences and the Laplacian of neighbouring pixels: what a squared error
alone would blur; d the distance in the activations of a trained network (`perceptual`), and P a patch discriminator that is trained along to
tell pictures from reconstructions (Esser et al. 2020, arXiv 2012.09841). Its weight is fixed, where that paper divides gradients of a batch: so a
sample's loss does not depend on its neighbours, nor a run on how its batches are split. The latents have no particular scale; `export` measures mean
and standard deviation of each channel over the training data, so that the codec hands unit variance to diffusion (Rombach et al. 2022, arXiv
2112.10752, section G).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.data.loader import Batch
from inkwash.io.folder import save_part
from inkwash.io.tensors import add_text
from inkwash.nn import native
from inkwash.nn.autoencoder_kl import AutoencoderKL
from inkwash.nn.patch_discriminator import PatchDiscriminator, fooled, hinge
from inkwash.nn.vae import Autoencoder, kl_divergence
from inkwash.train.config import AutoencoderRun
from inkwash.train.perceptual import Perceptual, load_perceptual
from inkwash.train.setting import Setting, compiled
from inkwash.train.sheet import save_sheet
from inkwash.train.task import Draw, Loss

ROLE, JUDGE = "autoencoder", "discriminator"


def edge_loss(x: Tensor, y: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute error of differences and Laplacians over `scales` halvings: (B, C, H, W) twice -> (B,)."""
    error = x - y                                                                       # all terms are linear in x - y
    total = error.new_zeros(error.shape[0])
    for scale in range(scales):
        if scale:
            if min(error.shape[-2:]) < 4:
                break                                                                   # half of it would have no neighbours
            error = F.avg_pool2d(error, 2)
        if min(error.shape[-2:]) >= 3 and native.ready(error):
            total = total + native.edges(error)
            continue
        right = error[..., :, 1:] - error[..., :, :-1]
        down = error[..., 1:, :] - error[..., :-1, :]
        across = right[..., 1:-1, 1:] - right[..., 1:-1, :-1]
        laplacian = across + down[..., 1:, 1:-1] - down[..., :-1, 1:-1]
        total = total + sum(part.abs().flatten(1).mean(1) for part in (right, down, laplacian) if part[0].numel())
    return total / scales


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(4 / mse) for images in [-1, 1], in dB: (B,)."""
    return 10 * torch.log10(4 / (x - y).clamp(-2, 2).square().flatten(1).mean(1).clamp(min=1e-12))


@contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """Inside the block gradients pass through `module` but none is kept for its parameters."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class AutoencoderTask:
    """Trains `config.network`, an AutoencoderConfig, on the images of a source."""

    def __init__(self, config: AutoencoderRun, setting: Setting) -> None:
        self.config, self.setting = config, setting
        self.network: Autoencoder | AutoencoderKL = config.network.build().to(memory_format=torch.channels_last)
        self.perceptual: Perceptual | None = load_perceptual(config.perceptual_from).to(setting.device) if config.perceptual else None
        self.judge: PatchDiscriminator | None = None
        self.roles: dict[str, nn.Module] = {ROLE: self.network}
        if config.adversarial:
            self.judge = config.discriminator.build().to(memory_format=torch.channels_last)
            self.roles[JUDGE] = self.judge
        factor = self.network.config.factor
        setting.require_multiple(config, factor if self.perceptual is None else math.lcm(factor, self.perceptual.factor))
        self.loader = setting.loader(config, setting.train, "train", flip=config.data.flip)
        held_out = setting.held_out(config)
        self.validation = None if held_out is None else held_out.images                 # (N, 3, H, W) uint8
        self.fingerprint = self.loader.fingerprint + ("" if self.perceptual is None else self.perceptual.fingerprint)
        self._terms = self._plain_terms

    def batch(self, micro_step: int) -> Batch:
        return self.loader.batch(micro_step)

    def keys(self, batch: Batch) -> list[str]:
        return batch.keys

    def losses(self, batch: Batch, draw: Draw) -> Iterator[Loss]:
        x = self.setting.signed(batch.images)                                           # (B, 3, H, W)
        factor = self.network.config.factor
        eps = draw.normal((self.network.config.latent_channels, x.shape[2] // factor, x.shape[3] // factor), "latent").to(x.device)
        y, mean, logvar = self.network(x, eps)
        value, l1, l2, edges, kl = self._terms(x, y, mean, logvar)
        logs = {"l1": l1, "l2": l2, "edges": edges, "kl": kl}
        if self.perceptual is not None:
            logs["perceptual"] = self.perceptual(x, y)
            value = value + self.config.perceptual * logs["perceptual"]
        if self.judge is None or draw.step < self.config.adversarial_start:
            yield Loss(ROLE, value, logs)
            return
        with fixed(self.judge):
            logs["fooled"] = fooled(self.judge(y))
        yield Loss(ROLE, value + self.config.adversarial * logs["fooled"], logs)
        real, made = self.judge(x), self.judge(y.detach())
        yield Loss(JUDGE, hinge(real, made), {"real": -fooled(real), "made": -fooled(made)})

    def _plain_terms(self, x: Tensor, y: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        weights = self.config
        y = y.float()
        l1 = (x - y).abs().flatten(1).mean(1)
        l2 = (x - y).square().flatten(1).mean(1)
        edges = edge_loss(x, y)
        kl = kl_divergence(mean, logvar)
        return weights.l1 * l1 + weights.l2 * l2 + weights.edges * edges + weights.kl * kl, l1, l2, edges, kl

    def compile(self) -> None:
        self.network.compile()
        self._terms = compiled(self._plain_terms)
        for other in (self.perceptual, self.judge):
            if other is not None:
                other.compile()

    def validate(self) -> dict[str, float]:
        """PSNR of decoded means in dB and the terms of the loss."""
        if self.validation is None:
            return {}
        sums: dict[str, float] = {}
        for images in self.validation.split(16):
            x = self.setting.signed(images)
            mean, logvar = self.network.encode(x)
            y = self.network.decode(mean).float()
            found = {"psnr": psnr(x, y.clamp(-1, 1)), "l1": (x - y).abs().flatten(1).mean(1), "edges": edge_loss(x, y),
                     "kl": kl_divergence(mean, logvar), **({} if self.perceptual is None else {"perceptual": self.perceptual(x, y)})}
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value.sum())
        return {name: value / len(self.validation) for name, value in sums.items()}

    def sample(self, path: Path) -> bool:
        """Held-out images above their reconstructions."""
        if self.validation is None:
            return False
        x = self.setting.signed(self.validation[:8])
        y = self.network.decode(self.network.encode(x)[0]).float()
        save_sheet(path, torch.cat([x, y]), columns=len(x))
        return True

    @torch.no_grad()
    def statistics(self, num_batches: int = 32) -> dict[str, list[float]]:
        """Mean and standard deviation of each channel of the posterior's mean, which is what a codec encodes to."""
        count, first, second = 0, torch.zeros(()), torch.zeros(())
        for step in range(min(num_batches, max(1, len(self.setting.train) // self.loader.batch_size))):
            mean = self.network.encode(self.setting.signed(self.loader.batch(step).images))[0].double()
            count += mean[:, 0].numel()
            first = first + mean.sum((0, 2, 3))
            second = second + mean.square().sum((0, 2, 3))
        mean = first / count
        return {"mean": mean.tolist(), "std": (second / count - mean.square()).sqrt().tolist()}

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """The autoencoder and the statistics of its latents; one that can absorb them does, so that mean 0 and deviation 1 are left."""
        found = self.statistics()
        network: Autoencoder | AutoencoderKL = copy.deepcopy(self.network)
        if isinstance(network, AutoencoderKL) and network.config.quant:
            network.absorb(torch.tensor(found["mean"]), torch.tensor(found["std"]))
            found = {"mean": [0.0] * len(found["mean"]), "std": [1.0] * len(found["std"])}
        save_part(folder, "vae", network, dtype=dtype)
        add_text(folder, "vae/statistics.json", json.dumps(found, indent=1) + "\n")

    def summary(self) -> str:
        return self.loader.summary()

    def close(self) -> None:
        self.loader.close()
