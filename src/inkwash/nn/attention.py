"""Attention: softmax(Q K^T / sqrt(d)) V over several heads (Vaswani et al. 2017, arXiv 1706.03762).

Two forms give the same numbers. "sdpa" is torch's fused kernel, which never stores the weights; "naive" is matmul, softmax, matmul,
whose backward pass is faster on a CPU for short sequences. "auto" takes the naive form when gradients are wanted on a CPU with fewer
than 512 keys, and the fused form otherwise. A masked key gets the score -inf, so its weight is exactly 0, whatever finite
numbers stand there; a query with no key left to read returns 0.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn import native
from inkwash.nn.config import require
from inkwash.nn.layers import channel_norm, zero

Form = Literal["auto", "sdpa", "naive"]
FORMS: tuple[str, ...] = get_args(Form)
SHORT = 512


def check_form(form: str, slice_size: int = 0) -> None:
    """Raises UsageError unless `form` is known and does not contradict `slice_size`: slices replace the fused kernel and slow it down."""
    require(form in FORMS, f"attention={form!r} is unknown; choose one of {', '.join(FORMS)}")
    require(slice_size >= 0, f"attention_slice={slice_size} is negative; 0 means no slices")
    require(not slice_size or form == "naive",
            f"attention_slice={slice_size} and attention={form!r} exclude each other: slicing replaces the fused kernel; "
            f"set attention='naive' or attention_slice=0")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, form: str = "auto", slice_size: int = 0,
           causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v: q (B, N, T, d), k and v (B, N, L, d) -> (B, N, T, d).

    `mask` (B, L) is True for keys that exist. `causal` hides keys after the query's own position (T = L). `slice_size` > 0 works on that
    many queries at a time (naive form only), so that at most slice_size * L weights exist.
    """
    if form == "auto":
        wants_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        form = "naive" if wants_grad and q.device.type == "cpu" and k.shape[-2] < SHORT else "sdpa"
    allowed = _allowed(mask, q.shape[-2], causal, q.device)                             # (B or 1, 1, T or 1, L) or None
    if form == "sdpa":
        if allowed is None:
            return F.scaled_dot_product_attention(q, k, v)
        blind = ~allowed.any(-1, keepdim=True)                                          # the fused kernel would divide 0 by 0 there
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | blind).masked_fill(blind, 0.0)
    if slice_size == 0:
        return _naive(q, k, v, allowed)
    parts = []
    for start in range(0, q.shape[-2], slice_size):
        rows = slice(start, start + slice_size)
        part = allowed if allowed is None or allowed.shape[-2] == 1 else allowed[:, :, rows]
        parts.append(_naive(q[:, :, rows], k, v, part))
    return torch.cat(parts, dim=-2)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) (B, N, T, L); exactly 0 for masked keys, all 0 where every key is masked."""
    return _weights(q, k, _allowed(mask, q.shape[-2], causal, q.device))


def _allowed(mask: Tensor | None, queries: int, causal: bool, device: torch.device) -> Tensor | None:
    allowed = None if mask is None else mask[:, None, None, :]                          # (B, 1, 1, L)
    if causal:
        past = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()     # (T, T)
        allowed = past[None, None] if allowed is None else allowed & past
    return allowed


def _weights(q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)                            # (B, N, T, L)
    if allowed is None:
        return scores.softmax(dim=-1)
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~allowed, 0.0)


def _naive(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    return _weights(q, k, allowed) @ v


class Attention(nn.Module):
    """Multi-head attention from x (B, T, width) to itself, or to `context` (B, L, context_width). Returns (B, T, width).

    `context_width` = 0 makes it self-attention. The output projection starts at 0 unless `zero_out` is False, so that a residual branch
    starts as nothing. Queries and keys are normalised per head when `qk_norm` is set (Dehghani et al. 2023, arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int, context_width: int = 0, form: str = "auto", slice_size: int = 0,
                 causal: bool = False, zero_out: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        require(heads > 0 and width % heads == 0, f"a width of {width} cannot be split into {heads} heads; the width must be a multiple")
        check_form(form, slice_size)
        self.heads, self.form, self.slice_size, self.causal, self.qk_norm = heads, form, slice_size, causal, qk_norm
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        if zero_out:
            zero(self.out)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, L) bool is True for the tokens of `context` that exist."""
        if self.native(x, (x if context is None else context).shape[1]) and not self.qk_norm:
            kv = self.key_value(x if context is None else context)                      # (B, L, 2 width)
            return self.out(native.attend(self.query(x), kv, mask, self.heads))
        q = self._split(self.query(x))                                                  # (B, N, T, d)
        k, v = self.key_value(x if context is None else context).chunk(2, dim=-1)       # (B, L, width) each
        k, v = self._split(k), self._split(v)                                           # (B, N, L, d) each
        if self.qk_norm:
            q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        out = attend(q, k, v, mask, self.form, self.slice_size, self.causal)
        return self.out(out.transpose(1, 2).flatten(2))                                 # (B, T, width)

    def native(self, x: Tensor, keys: int) -> bool:
        """Whether the native kernels take a step of training with so many keys."""
        return self.form == "auto" and not self.causal and keys < SHORT and native.ready(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)                        # (B, N, T, d)


class SpatialAttention(nn.Module):
    """x + attention over the pixels of x (B, C, H, W), to each other or to `context` (B, L, context_width); the identity at init."""

    def __init__(self, width: int, heads: int = 1, context_width: int = 0, form: str = "auto", slice_size: int = 0) -> None:
        super().__init__()
        self.attention = Attention(width, heads, context_width, form, slice_size)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        inner = self.attention
        if inner.native(x, x.shape[2] * x.shape[3] if context is None else context.shape[1]):
            return native.read(x, context, mask, inner.heads, inner.query, inner.key_value, inner.out)
        pixels = channel_norm(x).permute(0, 2, 3, 1).flatten(1, 2)                      # (B, H W, C)
        out = self.attention(pixels, context, mask)
        return x + out.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)                   # (B, C, H, W)
