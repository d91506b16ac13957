"""PatchGAN: a network that says of every patch of a picture whether it looks real (Isola et al. 2016, arXiv 1611.07004, section 3.2).

Convolutions of 4 x 4 and stride 2, then two of stride 1; each logit sees a patch of `reach` pixels a side and knows
nothing of the rest. In place of batch norm stands the norm over channels of this package, so that the logits of a picture do not depend on
those beside it. `hinge` and `fooled` are the two sides of the game (Lim & Ye 2017, arXiv 1705.02894).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.layers import channel_norm

SLOPE = 0.2


@dataclass(frozen=True, repr=False)
class PatchDiscriminatorConfig(NetworkConfig):
    """`widths`: channels after each halving of the resolution, and after one more convolution."""

    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        require(len(self.widths) > 1, f"a patch discriminator needs at least two widths, got {self.widths}")
        require(min(*self.widths, self.channels) > 0, "widths and channels are at least 1")

    @property
    def halvings(self) -> int:
        return len(self.widths) - 1

    @property
    def reach(self) -> int:
        """Pixels a side that one logit sees: 70 with three halvings, as in the paper."""
        pixels = 1
        for stride in (1, 1, *(2,) * self.halvings):
            pixels = (pixels - 1) * stride + 4
        return pixels

    def build(self) -> PatchDiscriminator:
        return PatchDiscriminator(self)


class PatchDiscriminator(nn.Module):
    """Network of a PatchDiscriminatorConfig: (B, channels, H, W) in [-1, 1] -> logits (B, 1, h, w), one a patch."""

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        strides = (2,) * config.halvings + (1,)
        pairs = zip((config.channels, *config.widths), config.widths)
        self.patches = nn.ModuleList(nn.Conv2d(*pair, 4, stride, 1) for pair, stride in zip(pairs, strides))
        self.patches.append(nn.Conv2d(config.widths[-1], 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Raises UsageError `bad_size` for an image in which there is no patch."""
        least = 3 * 2**self.config.halvings
        if min(image.shape[-2:]) < least:
            raise UsageError("bad_size", f"a patch discriminator of {self.config.halvings} halvings cannot look at {image.shape[-1]} x "
                                         f"{image.shape[-2]} pixels; both sides must be at least {least}, or use fewer widths")
        h = image
        for number, layer in enumerate(self.patches):
            h = layer(h if number == 0 else F.leaky_relu(channel_norm(h) if number > 1 else h, SLOPE))
        return h


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + made), the discriminator's loss, means over patches: (B, 1, h, w) twice -> (B,)."""
    return (F.relu(1 - real.float()) + F.relu(1 + made.float())).flatten(1).mean(1)


def fooled(made: Tensor) -> Tensor:
    """-made, the generator's loss, mean over patches: (B, 1, h, w) -> (B,)."""
    return -made.float().flatten(1).mean(1)
