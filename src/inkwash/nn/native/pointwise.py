"""SiLU, and 2 x 2 pixels that become channels and back, for bfloat16 images with the channels innermost.

    silu(x) = x / (1 + e^-x);   channel 4 c + 2 i + j at (y, x)  <->  channel c at (2 y + i, 2 x + j)   (Shi et al. 2016, arXiv 1609.05158)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import BF16, nhwc, require_nhwc

_silu, _silu_back, _shuffle = Function("silu", "PPL"), Function("silu_back", "PPPL"), Function("shuffle", "PPLLLL")


def silu(x: Tensor) -> Tensor:
    """SiLU of x (B, C, H, W)."""
    require_nhwc(x)
    y = torch.empty_like(x)
    _silu(x, y, x.numel())
    return y


def silu_back(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of x for the gradient dy of silu(x)."""
    assert require_nhwc(dy) == require_nhwc(x)
    dx = torch.empty_like(x)
    _silu_back(dy, x, dx, x.numel())
    return dx


def shuffle(x: Tensor) -> Tensor:
    """(B, 4 D, H, W) -> (B, D, 2 H, 2 W)."""
    batch, channels, height, width = require_nhwc(x)
    if channels % 64:
        return nhwc(F.pixel_shuffle(x, 2))
    y = torch.empty(batch, channels // 4, 2 * height, 2 * width, dtype=BF16, memory_format=torch.channels_last)
    _shuffle(x, y, batch * height, width, channels // 4, 0)
    return y


def unshuffle(y: Tensor) -> Tensor:
    """The inverse of `shuffle`."""
    batch, channels, height, width = require_nhwc(y)
    if channels % 16:
        return nhwc(F.pixel_unshuffle(y, 2))
    x = torch.empty(batch, 4 * channels, height // 2, width // 2, dtype=BF16, memory_format=torch.channels_last)
    _shuffle(x, y, batch * height // 2, width // 2, channels, 1)
    return x
