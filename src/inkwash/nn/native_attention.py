"""Kernels in C for inference on processors with AMX and AVX-512: attention, group norm with SiLU, gated GELU.

A Stable Diffusion step in bfloat16 spends a third of its time in attention over 4096 pixels with 40 numbers a head, where torch's kernel
needs two cycles a weight, most of them for the exponential. Here a block of 32 queries meets 256 keys at a time: scores stay in the
first cache, the exponential has bfloat16's precision, and 2^x takes the place of e^x. The softmax is the online one (Dao et al. 2022,
arXiv 2205.14135). Group norm reads its input twice and writes it once, SiLU and the addition of the noise embedding included.

Built as `inkwash.nn.native` builds its own, on first use; `kernels()` is None where that cannot be, and callers then use torch alone.
Sums have an order that does not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
from pathlib import Path

import torch
from torch import Tensor, nn

from inkwash.nn.native import compiler, library, supported

SOURCE = Path(__file__).with_name("native_attention.c")
_P, _L, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


@functools.cache
def kernels() -> InferenceKernels | None:
    """The kernels, built when this is called first; None when they cannot be had here, or with INKWASH_NATIVE=0 in the environment."""
    if os.environ.get("INKWASH_NATIVE", "1") == "0" or not supported() or compiler() is None:
        return None
    try:
        return InferenceKernels(ctypes.CDLL(str(library(SOURCE))))
    except (OSError, subprocess.SubprocessError):
        return None


class InferenceKernels:
    """Typed calls of the library. Tensors are bfloat16 on the CPU; a wrong dtype or layout is a bug of the caller, and asserted."""

    def __init__(self, built: ctypes.CDLL) -> None:
        if built.inkwash_amx() != 0:
            raise OSError("the operating system does not grant AMX")
        self._attention, self._group_norm, self._geglu = built.inkwash_attention, built.inkwash_group_norm, built.inkwash_geglu
        self._attention.argtypes = [_P] * 4 + [_L] * 7 + [_F, _L]
        self._group_norm.argtypes = [_P] * 5 + [_L] * 4 + [_F, _L, _L]
        self._geglu.argtypes, self._geglu.restype = [_P] * 2 + [_L] * 3, None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """softmax(q k^T / sqrt(d)) v per head: q (B, T, N d), k and v (B, L, N d) -> (B, T, N d). Rows may be parts of wider rows."""
        (batch, queries, width), length = q.shape, k.shape[1]
        for item, rows in ((q, queries), (k, length), (v, length)):
            assert item.dtype == torch.bfloat16, item.dtype
            assert item.stride(2) == 1, "numbers of a row must be neighbours"
            assert batch == 1 or item.stride(0) == rows * item.stride(1), "samples must follow each other"
        assert k.stride(1) == v.stride(1), "keys and values must have one layout"
        each, out = width // heads, torch.empty(batch, queries, width, dtype=torch.bfloat16)
        if self._attention(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), batch, queries, length, heads, each, q.stride(1), k.stride(1),
                           math.log2(math.e) / math.sqrt(each), torch.get_num_threads()):
            raise MemoryError("no memory for attention")
        return out

    def group_norm(self, x: Tensor, norm: nn.GroupNorm, act: bool, add: Tensor | None = None) -> Tensor:
        """act(norm(x + add)) for x (B, C, H, W) with the channels innermost, add (B, C) or None; act is SiLU."""
        assert x.dtype == norm.weight.dtype == norm.bias.dtype == torch.bfloat16
        batch, channels, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        add = None if add is None else add.contiguous()
        y = torch.empty_like(x)
        if self._group_norm(x.data_ptr(), None if add is None else add.data_ptr(), norm.weight.data_ptr(), norm.bias.data_ptr(), y.data_ptr(),
                            batch, height * width, channels, norm.num_groups, norm.eps, int(act), torch.get_num_threads()):
            raise MemoryError("no memory for group norm")
        return y

    def geglu(self, x: Tensor) -> Tensor:
        """a gelu(b), (a, b) the halves of the last dimension of x (..., 2 D)."""
        assert x.dtype == torch.bfloat16
        assert x.is_contiguous()
        y = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=torch.bfloat16)
        self._geglu(x.data_ptr(), y.data_ptr(), y.numel() // y.shape[-1], y.shape[-1], torch.get_num_threads())
        return y
