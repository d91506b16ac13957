"""Attention whose backward pass is written out, for training in bfloat16 with the kernels of `native`.

The weights of one head of one sample stay in the processor's cache, in the forward pass and, made again, in the backward pass, and heads are
read where the projections left them: nothing is transposed or split in memory. Meant for the few hundred keys of a latent or a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.native import Kernels, nhwc

BF16 = torch.bfloat16


class Attend(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v; arguments as of `Kernels.attend`."""

    @staticmethod
    def forward(ctx: Any, k: Kernels, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
        ctx.k, ctx.heads = k, heads
        ctx.save_for_backward(q, kv, mask)
        return k.attend(q, kv, mask, heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, mask = ctx.saved_tensors
        dq, dkv = ctx.k.attend_back(q, kv, mask, ctx.heads, grads[0].to(BF16).contiguous())
        return None, dq, dkv, None, None


def attend(k: Kernels, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Attention of q (B, T, N d) to kv (B, L, 2 N d), keys first; mask (B, L) bool is True for keys that exist."""
    return Attend.apply(k, q.to(BF16).contiguous(), kv.to(BF16).contiguous(), _bytes(mask), heads)  # type: ignore[no-any-return,no-untyped-call]


class Read(torch.autograd.Function):
    """x + out(attention(query(norm(x)), key_value(source))), the source being tokens (B, L, D), or norm(x) without."""

    @staticmethod
    def forward(ctx: Any, k: Kernels, x: Tensor, tokens: Tensor | None, mask: Tensor | None, heads: int, w_q: Tensor, b_q: Tensor, w_kv: Tensor,
                b_kv: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        w_q, w_kv, w_out = w_q.to(BF16), w_kv.to(BF16), w_out.to(BF16)
        n = _rows(k.norm(x, None, False))                                               # (B H W, C)
        source = n if tokens is None else tokens.flatten(0, 1)                          # (B L, D)
        q = F.linear(n, w_q, b_q.to(BF16)).view(batch, -1, width)                       # (B, H W, C)
        kv = F.linear(source, w_kv, b_kv.to(BF16)).view(batch, -1, 2 * width)           # (B, L, 2 C)
        o = k.attend(q, kv, mask, heads)
        y = _image(F.linear(o.view(-1, width), w_out, b_out.to(BF16)), x)
        y += x
        ctx.k, ctx.heads, ctx.own = k, heads, tokens is None
        ctx.save_for_backward(x, n, source, q, kv, o, mask, w_q, w_kv, w_out)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k: Kernels = ctx.k
        x, n, source, q, kv, o, mask, w_q, w_kv, w_out = ctx.saved_tensors
        dy = nhwc(grads[0])
        rows = _rows(dy)                                                                # (B H W, C)
        width = rows.shape[1]
        dq, dkv = k.attend_back(q, kv, mask, ctx.heads, (rows @ w_out).view_as(q))
        dq, dkv = dq.view(-1, width), dkv.view(-1, 2 * width)
        dn = torch.addmm(dq @ w_q, dkv, w_kv) if ctx.own else dq @ w_q
        dtokens = (dkv @ w_kv).view(x.shape[0], -1, w_kv.shape[1]) if ctx.needs_input_grad[2] else None
        dx, _ = k.norm_back(_image(dn, x), x, None, False, dy)
        return (None, dx, dtokens, None, None, k.linear_grad(n, dq), k.column_sum(dq), k.linear_grad(source, dkv), k.column_sum(dkv),
                k.linear_grad(o.view(-1, width), rows), k.column_sum(rows))


def read(k: Kernels, x: Tensor, tokens: Tensor | None, mask: Tensor | None, heads: int, query: nn.Linear, key_value: nn.Linear,
         out: nn.Linear) -> Tensor:
    """x (B, C, H, W) plus what it reads from tokens (B, L, D) with mask (B, L) bool, or from itself."""
    tokens = None if tokens is None else tokens.to(BF16).contiguous()
    return Read.apply(k, nhwc(x), tokens, _bytes(mask), heads, query.weight, query.bias, key_value.weight, key_value.bias,  # type: ignore[no-any-return,no-untyped-call]
                      out.weight, out.bias)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.uint8).contiguous()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W), channels innermost, as (B H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`."""
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)
