"""Attention for training. The weights of one head of one sample stay in the processor's cache, and are made again in the backward pass.

Heads are read where the projections left them: nothing is transposed or split in memory. Meant for the few hundred keys of a latent or a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import BF16

_attend = Function("attend", "PPPPPPPPPLLLLLLLF")


def forward(q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (B, T, N d), kv (B, L, 2 N d) holding k, then v; mask (B, L) uint8 is 1 for keys that exist."""
    out = torch.empty_like(q)
    k, v = kv.chunk(2, dim=-1)
    _attend(q, k, v, mask, out, None, None, None, None, *_sizes(q, kv, heads))
    return out


def backward(q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of q and kv for the gradient dy (B, T, N d) of `forward`'s result."""
    assert dy.is_contiguous()
    dq, dkv = torch.empty_like(q), torch.empty_like(kv)
    (k, v), (dk, dv) = kv.chunk(2, dim=-1), dkv.chunk(2, dim=-1)
    _attend(q, k, v, mask, None, dy, dq, dk, dv, *_sizes(q, kv, heads))
    return dq, dkv


def _sizes(q: Tensor, kv: Tensor, heads: int) -> tuple[int | float, ...]:
    (batch, queries, width), keys = q.shape, kv.shape[1]
    assert q.is_contiguous()
    assert kv.is_contiguous()
    assert q.dtype == kv.dtype == BF16
    assert kv.shape[-1] == 2 * width
    each = width // heads
    return batch, heads, queries, keys, each, width, 2 * width, each**-0.5


class Attend(torch.autograd.Function):
    """`forward` and `backward` as one function of autograd."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
        ctx.heads = heads
        ctx.save_for_backward(q, kv, mask)
        return forward(q, kv, mask, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, mask = ctx.saved_tensors
        return *backward(q, kv, mask, ctx.heads, grads[0].to(BF16).contiguous()), None, None


def attend(q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Attention of q (B, T, N d) to kv (B, L, 2 N d), keys first; mask (B, L) bool is True for keys that exist."""
    return Attend.apply(q.to(BF16).contiguous(), kv.to(BF16).contiguous(), as_bytes(mask), heads)  # type: ignore[no-any-return,no-untyped-call]


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask as the kernel reads it."""
    return None if mask is None else mask.to(torch.uint8).contiguous()
