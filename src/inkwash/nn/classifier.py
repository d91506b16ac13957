"""A classifier of noisy inputs, for classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4).

The lower half of a U-Net: residual blocks modulated by the noise level, attention where asked for, then the mean over positions. It is
trained on x = alpha x0 + sigma eps at all levels; a classifier of clean images gives useless gradients on noisy ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.attention import SpatialAttention
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.embed import NoiseEmbedding
from inkwash.nn.layers import Down, conv3, silu_norm, zero
from inkwash.nn.unet import ResBlock


@dataclass(frozen=True, repr=False)
class ClassifierConfig(NetworkConfig):
    """Sizes of a NoisyClassifier; `widths` and `attention` have one entry per resolution, finest first."""

    in_channels: int = 8
    num_classes: int = 10
    widths: tuple[int, ...] = (64, 128, 128)
    blocks: int = 1
    attention: tuple[bool, ...] = (False, False, True)
    head_dim: int = 64
    embed_dim: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(len(self.widths) > 0 and len(self.attention) == len(self.widths), f"attention {self.attention} needs one flag per width")
        require(self.num_classes > 1, f"a classifier needs at least 2 classes, got {self.num_classes}")
        require(min(*self.widths, self.in_channels, self.blocks, self.head_dim, self.embed_dim) > 0, f"every size of {self!r} is at least 1")
        require(all(width % max(1, width // self.head_dim) == 0 for width in self.widths), f"widths {self.widths} do not split into heads")
        require(0.0 <= self.dropout < 1.0, f"dropout={self.dropout} is not in [0, 1)")

    @property
    def factor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def build(self) -> NoisyClassifier:
        return NoisyClassifier(self)


class NoisyClassifier(nn.Module):
    """x (B, in_channels, H, W), noise (B,) in 0..1000 -> logits (B, num_classes); uniform (all 0) at init. Reads no condition."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = NoiseEmbedding(config.embed_dim)
        self.conv_in = conv3(config.in_channels, config.widths[0])
        self.levels, self.downsample, width = nn.ModuleList(), nn.ModuleList(), config.widths[0]
        for level, target in enumerate(config.widths):
            sites = nn.ModuleList()
            for _ in range(config.blocks):
                sites.append(ResBlock(width, target, config.embed_dim, config.dropout))
                width = target
            if config.attention[level]:
                sites.append(SpatialAttention(width, max(1, width // config.head_dim)))
            self.levels.append(sites)
            if level + 1 < len(config.widths):
                self.downsample.append(Down(width, width))
        self.head = zero(nn.Linear(width, config.num_classes))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Raises UsageError `bad_size` unless H and W are multiples of `factor`."""
        factor, (height, width) = self.config.factor, x.shape[-2:]
        if height % factor or width % factor:
            raise UsageError("bad_size", f"this classifier cannot take {width} x {height}; both must be multiples of {factor}")
        embedding = F.silu(self.embed(noise))                                           # (B, E)
        x = self.conv_in(x)
        for level, sites in enumerate(self.levels):
            assert isinstance(sites, nn.ModuleList)
            for site in sites:
                x = site(x, embedding) if isinstance(site, ResBlock) else site(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        return self.head(silu_norm(x).mean(dim=(2, 3)))                      # (B, num_classes)
