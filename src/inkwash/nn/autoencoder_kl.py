"""The autoencoder whose weights the field shares (Rombach et al. 2021, arXiv 2112.10752): Stable Diffusion's, 83.65 M parameters at factor 8.

Residual blocks with group norm, one attention over all latent positions in the middle of each half, and two 1 x 1 convolutions around the
latent space. Names and shapes of all tensors are those of diffusers' AutoencoderKL. The attention in the middle makes decoding global,
so that tiles only approximate it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.unet2d_blocks import Context, Downsample, DownStage, MidStage, PixelAttention, ResnetBlock, Stage, Upsample
from inkwash.nn.vae import LOGVAR_RANGE, in_tiles

NOTHING = Context()


@dataclass(frozen=True, repr=False)
class AutoencoderKLConfig(NetworkConfig):
    """Sizes of an AutoencoderKL; `sd_vae` is Stable Diffusion's. `widths` are finest first and `factor` = 2 ** (len(widths) - 1).

    `attention` puts the attention into the middle of both halves, `quant` the 1 x 1 convolutions around the latent space. `image` is the
    height and width of training, which other programs take as their default.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    attention: bool = True
    quant: bool = True
    image: int = 512
    aliases = {"sd_vae": {}}

    def __post_init__(self) -> None:
        require(len(self.widths) > 0 and min(self.widths) > 0, f"an autoencoder needs positive widths, got {self.widths}")
        require(min(self.channels, self.latent_channels, self.blocks, self.groups) > 0, f"every count of {self!r} must be at least 1")
        require(all(width % self.groups == 0 for width in self.widths), f"widths {self.widths} are not multiples of groups={self.groups}")

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return 2 ** (len(self.widths) - 1)

    def build(self) -> AutoencoderKL:
        return AutoencoderKL(self)


class RiseStage(Stage):
    """One resolution of a decoder: residual blocks, then twice the size; there are no skips."""

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, x, context)
        return x if self.upsamplers is None else self.upsamplers[0](x)


def _resnet(config: AutoencoderKLConfig, width_in: int, width_out: int) -> ResnetBlock:
    return ResnetBlock(width_in, width_out, 0, config.groups, 1e-6)


def _middle(config: AutoencoderKLConfig) -> MidStage:
    width = config.widths[-1]
    attentions: list[nn.Module] = [PixelAttention(width, 1, config.groups, 1e-6)] if config.attention else []
    return MidStage([_resnet(config, width, width), _resnet(config, width, width)], attentions)


class Encoder(nn.Module):
    """Image (B, channels, H, W) -> features of the moments (B, 2 latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        stages, width = [], widths[0]
        for level, target in enumerate(widths):
            ins = [width] + [target] * (config.blocks - 1)
            stages.append(DownStage([_resnet(config, one, target) for one in ins], [], down=Downsample(target, 0) if level < last else None))
            width = target
        self.down_blocks = nn.ModuleList(stages)
        self.mid_block = _middle(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, width, 1e-6)
        self.conv_out = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x, NOTHING, [])
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x, NOTHING, []))))


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) -> image (B, channels, f h, f w)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid_block = _middle(config)
        stages = []
        for level in reversed(range(len(config.widths))):
            target = config.widths[level]
            ins = [width] + [target] * config.blocks
            stages.append(RiseStage([_resnet(config, one, target) for one in ins], [], up=Upsample(target) if level > 0 else None))
            width = target
        self.up_blocks = nn.ModuleList(stages)
        self.conv_norm_out = nn.GroupNorm(config.groups, width, 1e-6)
        self.conv_out = nn.Conv2d(width, config.channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z), NOTHING, [])
        for stage in self.up_blocks:
            x = stage(x, NOTHING, [])
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """Encoder and decoder of an AutoencoderKLConfig. Images (B, channels, H, W) in [-1, 1]; latents (B, latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        latent = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.quant else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.quant else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, logvar), each (B, latent_channels, H/f, W/f). Raises UsageError `bad_size` when f does not divide H and W."""
        factor = self.config.factor
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise UsageError("bad_size", f"an image of {x.shape[-1]} x {x.shape[-2]} cannot be encoded; "
                                         f"width and height must be multiples of {factor}; crop or pad it")
        h = self.encoder(x)
        mean, logvar = (h if self.quant_conv is None else self.quant_conv(h)).chunk(2, dim=1)
        return mean, logvar.clamp(LOGVAR_RANGE[0], LOGVAR_RANGE[1])

    def decode(self, z: Tensor) -> Tensor:
        """The image (B, channels, f h, f w) of clean latents z (B, latent_channels, h, w); not clamped."""
        image: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return image

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image, mean, logvar) with the latent mean + exp(logvar / 2) eps decoded; eps ~ N(0, 1) has the latent's shape."""
        mean, logvar = self.encode(x)
        return self.decode(mean + torch.exp(0.5 * logvar) * eps), mean, logvar

    def decode_tiled(self, z: Tensor, tile: int = 64, overlap: int = 16) -> Tensor:
        """`decode` in square tiles, as `Autoencoder.decode_tiled`; only near to it where the decoder has attention. Raises UsageError `bad_tile`."""
        return in_tiles(self.decode, z, self.config.channels, self.config.factor, tile, overlap)

    @torch.no_grad()
    def absorb(self, mean: Tensor, std: Tensor) -> None:
        """Makes (z - mean) / std the latent in place of z, channel by channel: the 1 x 1 convolutions absorb both (C,).

        For programs that know one scale only. Raises UsageError `bad_network` for an autoencoder without these convolutions.
        """
        before, after = self.quant_conv, self.post_quant_conv
        if before is None or after is None or before.bias is None or after.bias is None:
            raise UsageError("bad_network", "an autoencoder without quant convolutions cannot absorb the statistics of its latents; "
                                            "build one with quant=True")
        scale = torch.cat([1 / std, torch.ones_like(std)])                              # (2 C,): a log-variance shifts, it is not scaled
        shift = torch.cat([-mean / std, -2 * std.log()])                                # (2 C,)
        before.weight.mul_(scale[:, None, None, None])
        before.bias.mul_(scale).add_(shift)
        after.bias.add_(after.weight[:, :, 0, 0] @ mean)
        after.weight.mul_(std[None, :, None, None])
