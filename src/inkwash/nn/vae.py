"""Autoencoder with a Gaussian latent (Kingma & Welling 2013, arXiv 1312.6114; Rombach et al. 2021, arXiv 2112.10752).

The encoder maps an image x in [-1, 1] to a normal distribution N(mean, exp(logvar)) at each latent position, the decoder maps a sample
of it back. One latent position stands for `factor` x `factor` pixels: 512 x 512 x 3 = 786432 numbers become 64 x 64 x 4 = 16384 at
factor 8, 48 times fewer. Training adds KL(N(mean, exp(logvar)) || N(0, 1)) with a small weight, so the latent scale is not 1: who
uses the latents divides by their measured standard deviation.

The first `patch` x `patch` pixels become channels at once, because the full resolution is where the time goes. Without the optional
attention both halves are local, and `decode_tiled` agrees with `decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import native
from inkwash.nn.attention import SpatialAttention
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.layers import Down, Up, channel_norm, conv1, conv3, silu_norm, zero

LOGVAR_RANGE = (-20.0, 10.0)


@dataclass(frozen=True, repr=False)
class AutoencoderConfig(NetworkConfig):
    """Sizes of an Autoencoder; `factor` = patch * 2 ** (len(widths) - 1).

    `widths`, `encoder_blocks` and `decoder_blocks` have one number per resolution, finest first. `mid_attention` puts one self-attention
    at the coarsest resolution of each half; it makes decoding global, so that tiles only approximate it.
    """

    channels: int = 3
    latent_channels: int = 8
    widths: tuple[int, ...] = (64, 96, 128)
    encoder_blocks: tuple[int, ...] = (1, 1, 1)
    decoder_blocks: tuple[int, ...] = (2, 2, 2)
    patch: int = 2
    mid_attention: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        require(levels > 0 and min(self.widths) > 0, f"an autoencoder needs positive widths, got {self.widths}")
        require(len(self.encoder_blocks) == len(self.decoder_blocks) == levels,
                f"encoder_blocks {self.encoder_blocks} and decoder_blocks {self.decoder_blocks} need {levels} numbers, one per width")
        require(min(*self.encoder_blocks, *self.decoder_blocks) >= 0, "a number of blocks is at least 0")
        require(min(self.channels, self.latent_channels, self.patch) > 0, "channels, latent_channels and patch are at least 1")

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def build(self) -> Autoencoder:
        return Autoencoder(self)


class LocalBlock(nn.Module):
    """x + conv(silu(conv(norm(x)))), the identity at init."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = conv3(width, width)
        self.conv_out = zero(conv3(width, width))

    def forward(self, x: Tensor) -> Tensor:
        if native.ready(x):
            return native.local(x, self.conv_in, self.conv_out)
        return x + self.conv_out(F.silu(self.conv_in(channel_norm(x))))                 # (B, C, H, W)


def _encoder(config: AutoencoderConfig) -> nn.Sequential:
    widths = config.widths
    layers: list[nn.Module] = [conv3(config.channels * config.patch**2, widths[0])]
    for level, width in enumerate(widths):
        layers += [LocalBlock(width) for _ in range(config.encoder_blocks[level])]
        if level + 1 < len(widths):
            layers.append(Down(width, widths[level + 1]))
    if config.mid_attention:
        layers.append(SpatialAttention(widths[-1]))
    return nn.Sequential(*layers)


def _decoder(config: AutoencoderConfig) -> nn.Sequential:
    widths = config.widths
    layers: list[nn.Module] = [conv3(config.latent_channels, widths[-1])]
    if config.mid_attention:
        layers.append(SpatialAttention(widths[-1]))
    for level in reversed(range(len(widths))):
        layers += [LocalBlock(widths[level]) for _ in range(config.decoder_blocks[level])]
        if level > 0:
            layers.append(Up(widths[level], widths[level - 1]))
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """Encoder and decoder of an AutoencoderConfig. Images (B, channels, H, W) in [-1, 1]; latents (B, latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.moments = conv1(config.widths[-1], 2 * config.latent_channels)
        self.decoder = _decoder(config)
        self.pixels = conv3(config.widths[0], config.channels * config.patch**2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, logvar), each (B, latent_channels, H/f, W/f). Raises UsageError `bad_size` when f does not divide H and W."""
        factor = self.config.factor
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise UsageError("bad_size", f"an image of {x.shape[-1]} x {x.shape[-2]} cannot be encoded; "
                                         f"width and height must be multiples of {factor}; crop or pad it")
        h = self.encoder(F.pixel_unshuffle(x, self.config.patch))                       # (B, D, H/f, W/f)
        mean, logvar = self.moments(channel_norm(h)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """The image (B, channels, f h, f w) of clean latents z (B, latent_channels, h, w); not clamped."""
        h = self.decoder(z)                                                             # (B, D, f h / patch, f w / patch)
        return F.pixel_shuffle(self.pixels(silu_norm(h)), self.config.patch)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image, mean, logvar) with the latent mean + exp(logvar / 2) eps decoded; eps ~ N(0, 1) has the latent's shape."""
        mean, logvar = self.encode(x)
        return self.decode(mean + torch.exp(0.5 * logvar) * eps), mean, logvar

    def decode_tiled(self, z: Tensor, tile: int = 64, overlap: int = 16) -> Tensor:
        """`decode` in square tiles of `tile` latents that share `overlap` latents, so that memory does not grow with the image.

        Each tile weighs 1 inside, falls to 0 over the middle half of the shared band and is 0 in the outer quarter, where its own
        border disturbs it. Once a quarter of the overlap exceeds the decoder's reach the result equals `decode`; with random weights, a
        worst case, an overlap of 4, 8 and 12 leaves a relative error of 9 %, 2 % and 0.6 %.
        Raises UsageError `bad_tile` unless tile >= 1 and 0 <= overlap <= tile / 2.
        """
        return in_tiles(self.decode, z, self.config.channels, self.config.factor, tile, overlap)


def in_tiles(decode: Callable[[Tensor], Tensor], z: Tensor, channels: int, factor: int, tile: int, overlap: int) -> Tensor:
    """What `Autoencoder.decode_tiled` does, for any decoder of `channels` channels and `factor` pixels a latent. Raises UsageError `bad_tile`."""
    if tile < 1 or not 0 <= overlap <= tile // 2:
        raise UsageError("bad_tile", f"an overlap of {overlap} does not fit tiles of {tile}; use a tile of at least 1 and at most half of it")
    height, width = z.shape[-2:]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    total = z.new_zeros(z.shape[0], channels, height * factor, width * factor, dtype=torch.float32)
    weight = torch.zeros(height * factor, width * factor, device=z.device)
    for top in rows:
        for left in columns:
            part = z[:, :, top : top + tile, left : left + tile]
            down = _ramp(top, part.shape[-2], height, overlap, factor).to(z.device)
            across = _ramp(left, part.shape[-1], width, overlap, factor).to(z.device)
            share = down[:, None] * across[None, :]                                 # (f h, f w)
            where = (slice(top * factor, top * factor + share.shape[0]), slice(left * factor, left * factor + share.shape[1]))
            total[..., where[0], where[1]] += decode(part).float() * share
            weight[where] += share
    return (total / weight).to(z.dtype)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats per latent number, averaged: (B, ...) -> (B,). Kingma & Welling 2013, appendix B."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).mean(dim=1)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one ends at `length`."""
    last = max(length - tile, 0)
    return [*range(0, last, max(tile - overlap, 1)), last]


def _ramp(start: int, size: int, length: int, overlap: int, factor: int) -> Tensor:
    """Weight (size * factor,) of a tile along one side: 1 at the image's border, 0 in the outer quarter of a shared band."""
    pixel = torch.arange(size * factor, dtype=torch.float32) + 0.5
    band = max(overlap * factor, 1)
    rise = ((pixel / band - 0.25) * 2).clamp(0.0, 1.0) if start > 0 else torch.ones_like(pixel)
    fall = (((size * factor - pixel) / band - 0.25) * 2).clamp(0.0, 1.0) if start + size < length else torch.ones_like(pixel)
    return torch.minimum(rise, fall)
