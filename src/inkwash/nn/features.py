"""A small convolutional network whose pooled activations are a feature space for comparing images.

Pixels in patches become channels, residual blocks follow at halving resolutions, and every resolution gives one vector: the mean over
positions of its activations. Fine resolutions see texture, noise and blur, coarse ones see things. The vectors stand side by side, each
number centred and divided by its standard deviation over training pictures, so that no resolution outweighs the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.layers import Down, channel_norm, conv3, require_sides, zero
from inkwash.nn.vae import LocalBlock


@dataclass(frozen=True, repr=False)
class FeatureNetConfig(NetworkConfig):
    """Sizes of a FeatureNet: `size` pixels a side; one width, number of blocks and number of features per resolution, finest first."""

    size: int = 128
    patch: int = 4
    widths: tuple[int, ...] = (48, 128, 224)
    blocks: tuple[int, ...] = (1, 2, 2)
    features: tuple[int, ...] = (64, 128, 320)

    def __post_init__(self) -> None:
        levels = len(self.widths)
        require(levels > 0 and len(self.blocks) == len(self.features) == levels,
                f"blocks {self.blocks} and features {self.features} need one number per width {self.widths}")
        require(min(*self.widths, *self.features, self.patch) > 0, "widths, features and patch are at least 1")
        require(min(self.blocks) >= 0, "a number of blocks is at least 0")
        require(self.size > 0 and self.size % self.factor == 0, f"size {self.size} must be a multiple of {self.factor}")

    @property
    def factor(self) -> int:
        """Pixels per position of the coarsest resolution."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def dim(self) -> int:
        """Length of the feature vector."""
        return sum(self.features)

    def build(self) -> FeatureNet:
        return FeatureNet(self)


class FeatureNet(nn.Module):
    """Network of a FeatureNetConfig: (B, 3, size, size) in [-1, 1] -> (B, dim)."""

    center: Tensor
    scale: Tensor

    def __init__(self, config: FeatureNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = conv3(3 * config.patch**2, config.widths[0])
        self.levels = nn.ModuleList(nn.Sequential(*(LocalBlock(width) for _ in range(count)))
                                    for width, count in zip(config.widths, config.blocks))
        self.downs = nn.ModuleList(Down(*pair) for pair in zip(config.widths, config.widths[1:]))
        self.heads = nn.ModuleList(nn.Conv2d(width, count, 1) for width, count in zip(config.widths, config.features))
        self.register_buffer("center", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(config.dim))

    def raw(self, image: Tensor) -> Tensor:
        """The pooled activations (B, dim) before they are centred and scaled. Raises UsageError `bad_size`."""
        size = self.config.size
        if tuple(image.shape[-2:]) != (size, size):
            raise UsageError("bad_size", f"the feature network takes {size} x {size} pixels, got {image.shape[-1]} x {image.shape[-2]}")
        return torch.cat([F.silu(head(h)).mean(dim=(2, 3)) for head, h in zip(self.heads, self.maps(image))], 1)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Normed activations (B, C, H/f, W/f) of every resolution, finest first, of images whose sides are multiples of `factor`.

        Raises UsageError `bad_size`.
        """
        require_sides(image, self.config.factor, "the feature network")
        h, found = self.stem(F.pixel_unshuffle(image, self.config.patch)), []
        for number, level in enumerate(self.levels):
            h = level(self.downs[number - 1](h) if number else h)                       # (B, C, H/f, W/f)
            found.append(channel_norm(h))
        return found

    def forward(self, image: Tensor) -> Tensor:
        return (self.raw(image).float() - self.center) / self.scale                     # (B, dim)

    @torch.no_grad()
    def calibrate(self, raw: Tensor) -> None:
        """Sets centre and scale from `raw` features (N, dim) of training pictures, N at least 2."""
        self.center.copy_(raw.float().mean(0))
        self.scale.copy_(raw.float().std(0).clamp_min(1e-3))


@dataclass(frozen=True, repr=False)
class LinearHeadConfig(NetworkConfig):
    """A linear classifier of features (B, dim) into `classes`."""

    dim: int = 512
    classes: int = 10

    def __post_init__(self) -> None:
        require(self.dim > 0 and self.classes > 1, f"a linear head needs features and at least 2 classes, got {self.dim} and {self.classes}")

    def build(self) -> LinearHead:
        return LinearHead(self)


class LinearHead(nn.Module):
    """Network of a LinearHeadConfig: features (B, dim) -> logits (B, classes), all 0 at init."""

    def __init__(self, config: LinearHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.dim, config.classes)
        zero(self.linear)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)
