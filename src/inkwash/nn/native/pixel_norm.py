"""Norm over the channels of each pixel, modulation and SiLU in one pass over memory, forward and backward.

    y = act(n (1 + scale) + shift),   n = (x - mean_c) / sqrt(var_c + 1e-6)

The normalised values are made again in the backward pass, so nothing but the input is kept. Images are bfloat16, channels innermost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import nhwc, require_nhwc

EPS = 1e-6
_forward, _backward = Function("norm", "PPPLLLFL"), Function("norm_back", "PPPPPPLLLFL")


def norm(x: Tensor, film: Tensor | None, act: bool) -> Tensor:
    """y for x (B, C, H, W) and film (B, 2 C), scale then shift, or None; act is SiLU or nothing."""
    y = torch.empty_like(x)
    _forward(x, film, y, *_sizes(x), EPS, act)
    return y


def norm_back(dy: Tensor, x: Tensor, film: Tensor | None, act: bool, extra: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(gradient of x plus `extra`, gradient of film in float32) for the gradient dy of y."""
    dx = torch.empty_like(x)
    dfilm = None if film is None else torch.empty(film.shape)
    _backward(nhwc(dy), x, film, None if extra is None else nhwc(extra), dx, dfilm, *_sizes(x), EPS, act)
    return dx, dfilm


def _sizes(x: Tensor) -> tuple[int, int, int]:
    batch, channels, height, width = require_nhwc(x)
    return batch * height * width, height * width, channels
