"""Attention over the pixels of an image as one residual block whose backward pass is written out, for training in bfloat16.

    y = x + out(attention(query(norm(x)), key_value(source))),   the source being tokens, or norm(x)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inkwash.nn.native import attention
from inkwash.nn.native.layout import BF16, image_of, nhwc, rows_of
from inkwash.nn.native.pixel_norm import norm, norm_back
from inkwash.nn.native.weights import column_sum, linear_grad


class Read(torch.autograd.Function):
    """The block above; tokens (B, L, D) are None for attention of the pixels to themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor | None, mask: Tensor | None, heads: int, w_q: Tensor, b_q: Tensor, w_kv: Tensor,
                b_kv: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        w_q, w_kv, w_out = w_q.to(BF16), w_kv.to(BF16), w_out.to(BF16)
        n = rows_of(norm(x, None, False))                                               # (B H W, C)
        source = n if tokens is None else tokens.flatten(0, 1)                          # (B L, D)
        q = F.linear(n, w_q, b_q.to(BF16)).view(batch, -1, width)                       # (B, H W, C)
        kv = F.linear(source, w_kv, b_kv.to(BF16)).view(batch, -1, 2 * width)           # (B, L, 2 C)
        o = attention.forward(q, kv, mask, heads)
        y = image_of(F.linear(o.view(-1, width), w_out, b_out.to(BF16)), x)
        y += x
        ctx.heads, ctx.own = heads, tokens is None
        ctx.save_for_backward(x, n, source, q, kv, o, mask, w_q, w_kv, w_out)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, n, source, q, kv, o, mask, w_q, w_kv, w_out = ctx.saved_tensors
        dy = nhwc(grads[0])
        rows = rows_of(dy)                                                              # (B H W, C)
        width = rows.shape[1]
        dq, dkv = attention.backward(q, kv, mask, ctx.heads, (rows @ w_out).view_as(q))
        dq, dkv = dq.view(-1, width), dkv.view(-1, 2 * width)
        dn = torch.addmm(dq @ w_q, dkv, w_kv) if ctx.own else dq @ w_q
        dtokens = (dkv @ w_kv).view(x.shape[0], -1, w_kv.shape[1]) if ctx.needs_input_grad[1] else None
        dx, _ = norm_back(image_of(dn, x), x, None, False, dy)
        return (dx, dtokens, None, None, linear_grad(n, dq), column_sum(dq), linear_grad(source, dkv), column_sum(dkv),
                linear_grad(o.view(-1, width), rows), column_sum(rows))


def read(x: Tensor, tokens: Tensor | None, mask: Tensor | None, heads: int, query: nn.Linear, key_value: nn.Linear, out: nn.Linear) -> Tensor:
    """x (B, C, H, W) plus what it reads from tokens (B, L, D) with mask (B, L) bool, or from itself."""
    tokens = None if tokens is None else tokens.to(BF16).contiguous()
    return Read.apply(nhwc(x), tokens, attention.as_bytes(mask), heads, query.weight, query.bias, key_value.weight, key_value.bias,  # type: ignore[no-any-return,no-untyped-call]
                      out.weight, out.bias)
