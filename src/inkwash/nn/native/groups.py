"""Group norm for training, forward and backward, with the noise embedding in front and SiLU behind.

    y = act(norm(x + add) gain + bias),   norm over the pixels and the C / G channels of a group (Wu & He 2018, arXiv 1803.08494)

Torch's group norm reads its input several times, its backward pass costs as much as a convolution, and SiLU and its gradient walk memory once
more each. Here the forward pass reads the input twice and writes once; the backward pass makes the normalised values again from the
input, so that nothing but the input is kept. Sums over pixels are float32, over groups float64, in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import BF16, nhwc, require_nhwc

_forward, _backward = Function("group", "PPPPPLLLLFL"), Function("group_back", "PPPPPPPPPPLLLLFL")


class Affine(NamedTuple):
    """What a group norm has: gain and bias (C,) float32, groups, and what is added to the variance."""

    gain: Tensor
    bias: Tensor
    groups: int
    eps: float


class Grads(NamedTuple):
    """Gradients of `norm`: x (B, C, H, W) bfloat16, gain and bias (C,) and add (B, C) float32."""

    x: Tensor
    gain: Tensor
    bias: Tensor
    add: Tensor


def norm(x: Tensor, add: Tensor | None, affine: Affine, act: bool) -> Tensor:
    """y for x (B, C, H, W) and add (B, C) bfloat16 or None; act is SiLU or nothing."""
    y = torch.empty_like(x)
    _forward(x, add, affine.gain, affine.bias, y, *_sizes(x, add, affine), act)
    return y


def norm_back(dy: Tensor, x: Tensor, add: Tensor | None, affine: Affine, act: bool, extra: Tensor | None = None) -> Grads:
    """Gradients for the gradient dy of y; `extra` is added to that of x."""
    dx, (dgain, dbias, dadd) = torch.empty_like(x), torch.empty(3, *x.shape[:2])
    extra = None if extra is None else nhwc(extra)
    _backward(nhwc(dy), x, add, affine.gain, affine.bias, extra, dx, dgain, dbias, dadd, *_sizes(x, add, affine), act)
    return Grads(dx, dgain.sum(0), dbias.sum(0), dadd)


def _sizes(x: Tensor, add: Tensor | None, affine: Affine) -> tuple[int | float, ...]:
    batch, channels, height, width = require_nhwc(x)
    for item in (affine.gain, affine.bias):
        assert item.dtype == torch.float32, item.dtype
        assert item.is_contiguous()
        assert item.shape == (channels,)
    assert add is None or (add.dtype == BF16 and add.is_contiguous() and add.shape == (batch, channels))
    return batch, height * width, channels, affine.groups, affine.eps
