"""Residual blocks with group norm whose backward pass is written out, for training in bfloat16.

    y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + add)))

As `blocks` does for blocks without groups: one pass for norm, embedding and SiLU, gradients of weights by `weights`, weights cast once, and
the gradient of the residual path added where the norm's gradient is made. Norms and convolutions that stand alone come one by one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inkwash.nn.native.groups import Affine, norm, norm_back
from inkwash.nn.native.layout import BF16, nhwc
from inkwash.nn.native.weights import conv_add, conv_back


def _affine(gain: Tensor, bias: Tensor, kind: tuple[int, float]) -> Affine:
    return Affine(gain.detach().float().contiguous(), bias.detach().float().contiguous(), *kind)


class GroupBlock(torch.autograd.Function):
    """The residual block above; `add` (B, D) is None without an embedding, `kind1` and `kind2` are groups and epsilon of the norms."""

    @staticmethod
    def forward(ctx: Any, kind1: tuple[int, float], kind2: tuple[int, float], x: Tensor, add: Tensor | None, gain1: Tensor, bias1: Tensor,
                gain2: Tensor, bias2: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        w1, w2 = w1.to(BF16), w2.to(BF16)
        a = norm(x, None, _affine(gain1, bias1, kind1), True)
        h = F.conv2d(a, w1, b1.to(BF16), padding=1)
        c = norm(h, add, _affine(gain2, bias2, kind2), True)
        skip = x
        if w is not None and b is not None:
            w = w.to(BF16)
            skip = F.conv2d(x, w, b.to(BF16))
        y = conv_add(c, w2, b2, skip)
        ctx.kinds = kind1, kind2
        ctx.save_for_backward(x, add, a, h, c, gain1, bias1, gain2, bias2, w1, w2, w)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kind1, kind2 = ctx.kinds
        x, add, a, h, c, gain1, bias1, gain2, bias2, w1, w2, w = ctx.saved_tensors
        dy = nhwc(grads[0])
        dc, dw2, db2 = conv_back(dy, c, w2)
        assert dc is not None
        inner = norm_back(dc, h, add, _affine(gain2, bias2, kind2), True)
        da, dw1, db1 = conv_back(inner.x, a, w1)
        assert da is not None
        extra, dw, db = (dy, None, None) if w is None else conv_back(dy, x, w)
        outer = norm_back(da, x, None, _affine(gain1, bias1, kind1), True, extra)
        return (None, None, outer.x, None if add is None else inner.add, outer.gain, outer.bias, inner.gain, inner.bias, dw1, db1, dw2, db2, dw, db)


def group_block(x: Tensor, add: Tensor | None, norm1: nn.GroupNorm, conv1: nn.Conv2d, norm2: nn.GroupNorm, conv2: nn.Conv2d,
                shortcut: nn.Conv2d | None) -> Tensor:
    """The residual block of x (B, C, H, W) and add (B, D)."""
    add = None if add is None else add.to(BF16).contiguous()
    weight, bias = (None, None) if shortcut is None else (shortcut.weight, shortcut.bias)
    kinds = [(one.num_groups, one.eps) for one in (norm1, norm2)]
    return GroupBlock.apply(*kinds, nhwc(x), add, norm1.weight, norm1.bias, norm2.weight, norm2.bias, conv1.weight, conv1.bias,  # type: ignore[no-any-return,no-untyped-call]
                            conv2.weight, conv2.bias, weight, bias)


class GroupNorm(torch.autograd.Function):
    """norm(x), with SiLU behind when `act`."""

    @staticmethod
    def forward(ctx: Any, kind: tuple[int, float], act: bool, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        ctx.kind, ctx.act = kind, act
        ctx.save_for_backward(x, gain, bias)
        return norm(x, None, _affine(gain, bias, kind), act)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias = ctx.saved_tensors
        found = norm_back(grads[0], x, None, _affine(gain, bias, ctx.kind), ctx.act)
        return None, None, found.x, found.gain, found.bias


def group_norm(x: Tensor, layer: nn.GroupNorm, act: bool) -> Tensor:
    """layer(x), then SiLU when `act`."""
    return GroupNorm.apply((layer.num_groups, layer.eps), act, nhwc(x), layer.weight, layer.bias)  # type: ignore[no-any-return,no-untyped-call]


class Conv(torch.autograd.Function):
    """A convolution of stride 1 that keeps height and width."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(BF16)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias.to(BF16), padding=weight.shape[-1] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return conv_back(nhwc(grads[0]), x, weight, ctx.needs_input_grad[0])


def conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """layer(x) for a convolution of stride 1 that keeps height and width."""
    return Conv.apply(nhwc(x), layer.weight, layer.bias)  # type: ignore[no-any-return,no-untyped-call]
