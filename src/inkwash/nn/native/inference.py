"""Kernels for inference: attention, group norm with SiLU, gated GELU.

A Stable Diffusion step in bfloat16 spends a third of its time in attention over 4096 pixels with 40 numbers a head, where torch's kernel
needs two cycles a weight, most of them for the exponential. Here a block of 32 queries meets 256 keys at a time: scores stay in the
first cache, the exponential has bfloat16's precision, and 2^x takes the place of e^x. The softmax is the online one (Dao et al. 2022,
arXiv 2205.14135). Group norm reads its input twice and writes it once, SiLU and the addition of the noise embedding included.

Tensors are bfloat16 on the CPU; a wrong dtype or layout is a bug of the caller, and asserted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import BF16

_attention, _group_norm, _geglu = Function("attention", "PPPPLLLLLLLF"), Function("group_norm", "PPPPPLLLLFL"), Function("geglu", "PPLL")


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head: q (B, T, N d), k and v (B, L, N d) -> (B, T, N d). Rows may be parts of wider rows."""
    (batch, queries, width), length = q.shape, k.shape[1]
    for item, rows in ((q, queries), (k, length), (v, length)):
        assert item.dtype == BF16, item.dtype
        assert item.stride(2) == 1, "numbers of a row must be neighbours"
        assert batch == 1 or item.stride(0) == rows * item.stride(1), "samples must follow each other"
    assert k.stride(1) == v.stride(1), "keys and values must have one layout"
    each, out = width // heads, torch.empty(batch, queries, width, dtype=BF16)
    _attention(q, k, v, out, batch, queries, length, heads, each, q.stride(1), k.stride(1), math.log2(math.e) / math.sqrt(each))
    return out


def group_norm(x: Tensor, norm: nn.GroupNorm, act: bool, add: Tensor | None = None) -> Tensor:
    """act(norm(x + add)) for x (B, C, H, W) with the channels innermost, add (B, C) or None; act is SiLU."""
    assert x.dtype == norm.weight.dtype == norm.bias.dtype == BF16
    batch, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    add = None if add is None else add.contiguous()
    _group_norm(x, add, norm.weight, norm.bias, y, batch, height * width, channels, norm.num_groups, norm.eps, act)
    return y


def geglu(x: Tensor) -> Tensor:
    """a gelu(b), (a, b) the halves of the last dimension of x (..., 2 D)."""
    assert x.dtype == BF16
    assert x.is_contiguous()
    y = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=BF16)
    _geglu(x, y, y.numel() // y.shape[-1], y.shape[-1])
    return y
