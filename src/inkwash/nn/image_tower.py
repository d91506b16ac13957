"""A small convolutional image encoder: image (B, channels, H, W) in [-1, 1] -> one vector (B, out_dim).

Residual blocks at halving resolutions behind a stem that turns `patch` x `patch` pixels into channels, then the mean over positions,
so that any size that is a multiple of `factor` works.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.layers import Down, channel_norm, conv3, require_sides, silu_norm
from inkwash.nn.vae import LocalBlock


@dataclass(frozen=True, repr=False)
class ImageTowerConfig(NetworkConfig):
    """Sizes of an ImageTower; one width and number of blocks per resolution, finest first."""

    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 192)
    blocks: tuple[int, ...] = (1, 1, 2)
    out_dim: int = 192
    patch: int = 4

    def __post_init__(self) -> None:
        require(len(self.widths) > 0 and len(self.blocks) == len(self.widths), f"blocks {self.blocks} need one number per width {self.widths}")
        require(min(*self.widths, self.channels, self.out_dim, self.patch) > 0, "widths, channels, out_dim and patch are at least 1")
        require(min(self.blocks) >= 0, "a number of blocks is at least 0")

    @property
    def factor(self) -> int:
        """Height and width of an image must be multiples of this."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def build(self) -> ImageTower:
        return ImageTower(self)


class ImageTower(nn.Module):
    """Network of an ImageTowerConfig."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [conv3(config.channels * config.patch**2, config.widths[0])]
        for level, width in enumerate(config.widths):
            layers += [LocalBlock(width) for _ in range(config.blocks[level])]
            if level + 1 < len(config.widths):
                layers.append(Down(width, config.widths[level + 1]))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(config.widths[-1], config.out_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Raises UsageError `bad_size` unless height and width are multiples of `factor`."""
        require_sides(image, self.config.factor, "the image tower")
        h = self.body(F.pixel_unshuffle(image, self.config.patch))                      # (B, D, H/f, W/f)
        return self.head(silu_norm(h).mean(dim=(2, 3)))                                 # (B, out_dim)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Normed activations (B, D, H/f, W/f) of every resolution, finest first. Raises UsageError `bad_size`."""
        require_sides(image, self.config.factor, "the image tower")
        h, found = F.pixel_unshuffle(image, self.config.patch), []
        for layer in self.body:
            if isinstance(layer, Down):
                found.append(channel_norm(h))
            h = layer(h)
        return [*found, channel_norm(h)]
