"""uint8 images <-> the space in which a model diffuses, of zero mean and unit variance per channel.

Noise levels mean the same for every model only when the data has unit variance (Rombach et al. 2022, arXiv:2112.10752, scale their
latents for this reason): x0 = (z - mean) / std with the statistics of the training set, stored with the model. Only clean latents may
be decoded: a decoder never saw noise. `Clean` is the type that says so, and nothing but an encoder or the end of sampling makes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inkwash.core.level import Clean
from inkwash.nn.vae import Autoencoder


class Codec(nn.Module, ABC):
    """Between images (B, 3, H, W) uint8 and model space (B, C, H / factor, W / factor) float32."""

    channels: int
    factor: int

    @abstractmethod
    def encode(self, images: Tensor) -> Clean:
        """Images to unit-variance samples."""

    @abstractmethod
    def restore(self, clean: Clean) -> Tensor:
        """Clean samples to float32 images, about -1..1, as `to_uint8` reads them. Raises TypeError for anything else, such as a noisy tensor."""

    def decode(self, clean: Clean) -> Tensor:
        """Clean samples to images. Raises TypeError as `restore` does."""
        return to_uint8(self.restore(clean))

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of one image of that size in pixels."""
        return self.channels, height // self.factor, width // self.factor


def to_signed(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        raise TypeError(f"images must be uint8 of shape (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float -1..1 to uint8, rounded and clamped; grey where it is NaN."""
    return images.float().nan_to_num(0.0, 1.0, -1.0).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def _clean(value: object) -> Tensor:
    if not isinstance(value, Clean):
        raise TypeError(f"only clean latents can be decoded, got {type(value).__name__}; wrap the end of sampling in Clean(x)")
    return value.x


class Pixels(Codec):
    """Diffusion on the pixels themselves, scaled to -1..1."""

    channels = 3
    factor = 1

    def encode(self, images: Tensor) -> Clean:
        return Clean(to_signed(images))

    def restore(self, clean: Clean) -> Tensor:
        return _clean(clean).float()


class Latent(Codec):
    """Diffusion in the latent space of an autoencoder.

    `vae.encode(images (B, 3, H, W) in -1..1) -> (mean, logvar)`, `vae.decode(z (B, C, h, w)) -> images`. The autoencoder runs in its own
    dtype, one image at a time, so that an image has the same bits in any company. Images with a side above `tile` pixels are decoded in
    overlapping tiles of that size by `vae.decode_tiled(z, tile, overlap)`; memory then grows with the tile, not with the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Autoencoder, mean: Sequence[float], std: Sequence[float], factor: int, tile: int | None = None) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean and std need one value per channel, std above 0, got {list(mean)} and {list(std)}")
        self.vae: Autoencoder = vae.eval().requires_grad_(False)
        self.channels = len(mean)
        self.factor = factor
        self.tile = tile
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).reshape(1, -1, 1, 1))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    @torch.no_grad()
    def encode(self, images: Tensor) -> Clean:
        signed = to_signed(images).to(self.mean.device, self.dtype)
        z = torch.cat([self.vae.encode(image[None])[0].float() for image in signed])
        return Clean((z - self.mean) / self.std)

    @torch.no_grad()
    def restore(self, clean: Clean) -> Tensor:
        z = _clean(clean).to(self.mean.device, torch.float32) * self.std + self.mean  # (B, C, h, w)
        return torch.cat([self._restore_one(one[None]) for one in z])

    def decode(self, clean: Clean) -> Tensor:
        return torch.cat([to_uint8(self.restore(Clean(one[None]))) for one in _clean(clean)])       # one image in float32 at a time

    def _restore_one(self, z: Tensor) -> Tensor:
        side = None if self.tile is None else max(4, self.tile // self.factor)
        if side is None or max(z.shape[2:]) <= side:
            return self.vae.decode(z.to(self.dtype)).float()
        return self.vae.decode_tiled(z.to(self.dtype), side, side // 4).float()
