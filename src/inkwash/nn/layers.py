"""Layers that several networks share.

Normalisation is per pixel over channels (layer norm, Ba et al. 2016, arXiv 1607.06450, without affine parameters): in channels-last
memory it reads each pixel once, its backward pass is several times cheaper than group norm's, and it never mixes positions, so that
a convolutional decoder stays exactly local and can run in tiles. The convolution behind it supplies scale and shift.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import native

LayerModule = TypeVar("LayerModule", bound=nn.Conv2d | nn.Linear)


def channel_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """(x - mean_c) / sqrt(var_c + eps) at every pixel of x (B, C, H, W), over its C channels."""
    pixels = x.permute(0, 2, 3, 1)                                                      # (B, H, W, C)
    return F.layer_norm(pixels, (pixels.shape[-1],), eps=eps).permute(0, 3, 1, 2)


def silu_norm(x: Tensor) -> Tensor:
    """silu(channel_norm(x))."""
    return native.silu_norm(x) if native.ready(x) else F.silu(channel_norm(x))


def require_sides(image: Tensor, factor: int, who: str) -> None:
    """Raises UsageError `bad_size` unless height and width of `image` (B, C, H, W) are multiples of `factor`."""
    height, width = image.shape[-2:]
    if height % factor or width % factor:
        raise UsageError("bad_size", f"{who} cannot take {width} x {height}; both must be multiples of {factor}")


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: feature-wise modulation, the identity at scale = shift = 0. Perez et al. 2017, arXiv 1709.07871.

    `scale` and `shift` must broadcast against x.
    """
    return torch.addcmul(x + shift, x, scale)


def zero(layer: LayerModule) -> LayerModule:
    """The layer with weight and bias set to 0, so that a residual branch or an output starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv3(width_in: int, width_out: int) -> nn.Conv2d:
    """3 x 3 convolution that keeps height and width."""
    return nn.Conv2d(width_in, width_out, 3, padding=1)


def conv1(width_in: int, width_out: int) -> nn.Conv2d:
    """1 x 1 convolution: a linear map of channels at every pixel."""
    return nn.Conv2d(width_in, width_out, 1)


class Down(nn.Module):
    """Half the resolution: 2 x 2 pixels become channels, then a linear map. (B, C, H, W) -> (B, D, H/2, W/2). H and W are even."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)                                                             # (B, D, H/2, W/2)


class Up(nn.Module):
    """Twice the resolution: a linear map to 4 D channels, which become 2 x 2 pixels. (B, C, H, W) -> (B, D, 2H, 2W).

    The four sub-pixels start equal, so that it begins as nearest-neighbour enlargement and shows no checkerboard.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = conv1(width_in, 4 * width_out)
        with torch.no_grad():
            for parameter in self.conv.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return native.enlarge(x, self.conv) if native.ready(x) else F.pixel_shuffle(self.conv(x), 2)
