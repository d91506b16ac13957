"""Residual blocks whose backward pass is written out, for training in bfloat16.

    y = skip(x) + conv_out(silu(norm(conv_in(silu(norm(x)))) (1 + scale) + shift))

Written as one function of autograd, every norm, modulation and SiLU is one pass over memory, the gradient of the residual path is added
where the gradient of the norm is made, and weights are cast once. The values are those of the plain form up to rounding: sums are float32,
what is stored between layers is bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inkwash.nn.native.layout import BF16, nhwc
from inkwash.nn.native.pixel_norm import norm, norm_back
from inkwash.nn.native.pointwise import shuffle, silu, silu_back, unshuffle
from inkwash.nn.native.weights import conv_add, conv_back


class Block(torch.autograd.Function):
    """The residual block above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, film: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, w_skip: Tensor | None,
                b_skip: Tensor | None) -> Tensor:
        w_in, w_out = w_in.to(BF16), w_out.to(BF16)
        a = norm(x, None, True)
        h = F.conv2d(a, w_in, b_in.to(BF16), padding=1)
        c = norm(h, film, True)
        skip = x
        if w_skip is not None and b_skip is not None:
            w_skip = w_skip.to(BF16)
            skip = F.conv2d(x, w_skip, b_skip.to(BF16))
        y = conv_add(c, w_out, b_out, skip)
        ctx.save_for_backward(x, film, a, h, c, w_in, w_out, w_skip)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, film, a, h, c, w_in, w_out, w_skip = ctx.saved_tensors
        dy = nhwc(grads[0])
        dc, dw_out, db_out = conv_back(dy, c, w_out)
        assert dc is not None
        dh, dfilm = norm_back(dc, h, film, True)
        da, dw_in, db_in = conv_back(dh, a, w_in)
        assert da is not None
        extra, dw_skip, db_skip = (dy, None, None) if w_skip is None else conv_back(dy, x, w_skip)
        dx, _ = norm_back(da, x, None, True, extra)
        return dx, dfilm, dw_in, db_in, dw_out, db_out, dw_skip, db_skip


class Local(torch.autograd.Function):
    """x + conv_out(silu(conv_in(norm(x))))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        w_in, w_out = w_in.to(BF16), w_out.to(BF16)
        a = norm(x, None, False)
        h = F.conv2d(a, w_in, b_in.to(BF16), padding=1)
        c = silu(h)
        y = conv_add(c, w_out, b_out, x)
        ctx.save_for_backward(x, a, h, c, w_in, w_out)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a, h, c, w_in, w_out = ctx.saved_tensors
        dy = nhwc(grads[0])
        dc, dw_out, db_out = conv_back(dy, c, w_out)
        assert dc is not None
        da, dw_in, db_in = conv_back(silu_back(dc, h), a, w_in)
        assert da is not None
        dx, _ = norm_back(da, x, None, False, dy)
        return dx, dw_in, db_in, dw_out, db_out


class SiluNorm(torch.autograd.Function):
    """silu(norm(x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return norm(x, None, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return norm_back(grads[0], ctx.saved_tensors[0], None, True)[0]


def silu_norm(x: Tensor) -> Tensor:
    """silu(norm(x)) for x (B, C, H, W)."""
    return SiluNorm.apply(nhwc(x))  # type: ignore[no-any-return,no-untyped-call]


class Enlarge(torch.autograd.Function):
    """A linear map to 4 D channels, which become 2 x 2 pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(BF16)
        ctx.save_for_backward(x, weight)
        return shuffle(F.conv2d(x, weight, bias.to(BF16)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return conv_back(unshuffle(nhwc(grads[0])), x, weight, ctx.needs_input_grad[0])


def enlarge(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """(B, C, H, W) -> (B, D, 2 H, 2 W) by a 1 x 1 convolution to 4 D channels, sub-pixels innermost."""
    return Enlarge.apply(nhwc(x), layer.weight, layer.bias)  # type: ignore[no-any-return,no-untyped-call]


def local(x: Tensor, conv_in: nn.Conv2d, conv_out: nn.Conv2d) -> Tensor:
    """x + conv_out(silu(conv_in(norm(x)))) for x (B, C, H, W)."""
    return Local.apply(nhwc(x), conv_in.weight, conv_in.bias, conv_out.weight, conv_out.bias)  # type: ignore[no-any-return,no-untyped-call]


def block(x: Tensor, film: Tensor, conv_in: nn.Conv2d, conv_out: nn.Conv2d, skip: nn.Module) -> Tensor:
    """The residual block of x (B, C, H, W) and film (B, 2 D); `skip` is a 1 x 1 convolution or the identity."""
    weight, bias = (skip.weight, skip.bias) if isinstance(skip, nn.Conv2d) else (None, None)
    return Block.apply(nhwc(x), film.to(BF16).contiguous(), conv_in.weight, conv_in.bias, conv_out.weight, conv_out.bias, weight, bias)  # type: ignore[no-any-return,no-untyped-call]
