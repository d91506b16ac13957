"""Kernels in C for training on processors with AMX and AVX-512, built with the machine's C compiler on first use.

Two things keep torch's own operators from the speed of the machine when a small network is trained in bfloat16: chains of elementwise
operators, each of which walks memory again, and gradients of weights, whose matrix products have both sides transposed. The
kernels do norm, modulation and SiLU in one pass, forward and backward, and the gradient of a 3 x 3 or 1 x 1 convolution's weights as
tiles of transposed pixels. Sums have a fixed order, so results do not depend on the number of threads.

`kernels()` is None where the processor, the compiler or the platform is missing, or with INKWASH_NATIVE=0 in the environment; callers
then use torch alone. The library is kept in the user's cache folder under the SHA-256 of its source and of the processor's flags.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("native.c")
EPS = 1e-6
_P, _L, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_SIGNATURES: dict[str, list[Any]] = {
    "norm": [_P, _P, _P, _L, _L, _L, _F, _L], "norm_back": [_P, _P, _P, _P, _P, _P, _L, _L, _L, _F, _L], "colsum": [_P, _P, _L, _L, _L],
    "wgrad": [_P, _P, _P, _L, _L, _L, _L, _L, _L, _L, _L], "attend": [_P] * 9 + [_L] * 7 + [_F],
}


def compiler() -> str | None:
    """The C compiler's path, None when there is none."""
    return next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)


def supported() -> bool:
    """Whether this processor has what the kernels are written for."""
    return (sys.platform == "linux" and platform.machine() == "x86_64" and torch.cpu._is_amx_tile_supported()
            and torch.cpu._is_avx512_bf16_supported())


@functools.cache
def kernels() -> Kernels | None:
    """The kernels, built when this is called first; None when they cannot be had here."""
    if os.environ.get("INKWASH_NATIVE", "1") == "0" or not supported() or compiler() is None:
        return None
    try:
        return Kernels(ctypes.CDLL(str(library(SOURCE))))
    except (OSError, subprocess.SubprocessError):
        return None


def library(path_of_source: Path) -> Path:
    """The shared library of a C source, built unless the cache has it. Raises OSError, subprocess.SubprocessError."""
    source = path_of_source.read_bytes()
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    name = hashlib.sha256(source + repr((flags, cpu)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inkwash"
    path = folder / f"native-{name}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / "native.so"
            subprocess.run([str(compiler()), *flags, "-o", str(built), str(path_of_source)], check=True, capture_output=True, timeout=120)
            built.replace(path)
    return path


class Kernels:
    """Typed calls of the library. Tensors are bfloat16 with the channels innermost in memory; nothing is checked beyond asserts."""

    def __init__(self, library: ctypes.CDLL) -> None:
        if library.inkwash_amx() != 0:
            raise OSError("the operating system does not grant AMX")
        self._call: dict[str, Callable[..., int]] = {}
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, f"inkwash_{name}")
            function.argtypes, function.restype = arguments, ctypes.c_int if name in ("wgrad", "attend") else None
            self._call[name] = function

    def norm(self, x: Tensor, film: Tensor | None, act: bool) -> Tensor:
        """act(n (1 + scale) + shift) with n = `channel_norm`(x) for x (B, C, H, W); film (B, 2 C) is scale, then shift; act is SiLU."""
        rows, per, channels = _sizes(x)
        y = torch.empty_like(x)
        self._call["norm"](x.data_ptr(), _pointer(film), y.data_ptr(), rows, per, channels, EPS, int(act))
        return y

    def norm_back(self, dy: Tensor, x: Tensor, film: Tensor | None, act: bool, extra: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(gradient of x plus `extra`, gradient of film in float32) of `norm` for the gradient dy of its result."""
        rows, per, channels = _sizes(x)
        dy = nhwc(dy)
        extra = None if extra is None else nhwc(extra)
        dx = torch.empty_like(x)
        dfilm = None if film is None else torch.empty(film.shape)
        self._call["norm_back"](dy.data_ptr(), x.data_ptr(), _pointer(film), _pointer(extra), dx.data_ptr(), _pointer(dfilm), rows, per,
                                channels, EPS, int(act))
        return dx, dfilm

    def bias_grad(self, dy: Tensor) -> Tensor:
        """Sum of dy (B, C, H, W) over all but the channels, float32."""
        rows, _, channels = _sizes(dy)
        out = torch.empty(channels)
        self._call["colsum"](dy.data_ptr(), out.data_ptr(), rows, channels, channels)
        return out

    def weight_grad(self, x: Tensor, dy: Tensor, taps: int) -> Tensor:
        """Gradient (D, C, taps, taps) float32, channels last, of the weights of a convolution x (B, C, H, W) -> (B, D, H, W); see `fits`."""
        batch, channels, height, width = x.shape
        out = torch.empty(dy.shape[1], channels, taps, taps, memory_format=torch.channels_last)
        if self._call["wgrad"](x.data_ptr(), dy.data_ptr(), out.data_ptr(), batch, height, width, channels, dy.shape[1], taps, channels, dy.shape[1]):
            raise MemoryError("no memory for the gradient of a convolution's weights")
        return out

    def linear_grad(self, x: Tensor, dy: Tensor) -> Tensor:
        """Gradient (D, C) float32 of the weights of a linear map x (P, C) -> (P, D), both contiguous."""
        rows = x.shape[0]
        wide = next((wide for wide in (256, 128, 64, 32, 16) if rows % wide == 0), 0)
        if not wide or x.shape[1] % 16 or dy.shape[1] % 16:
            return (dy.t() @ x).float()
        out = torch.empty(dy.shape[1], x.shape[1])
        sizes = (rows // wide, 1, wide, x.shape[1], dy.shape[1], 1, x.shape[1], dy.shape[1])
        if self._call["wgrad"](x.data_ptr(), dy.data_ptr(), out.data_ptr(), *sizes):
            raise MemoryError("no memory for the gradient of a linear map's weights")
        return out

    def column_sum(self, dy: Tensor) -> Tensor:
        """Sum (D,) float32 of the rows of dy (P, D)."""
        out = torch.empty(dy.shape[1])
        self._call["colsum"](dy.data_ptr(), out.data_ptr(), dy.shape[0], dy.shape[1], dy.shape[1])
        return out

    def attend(self, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int) -> Tensor:
        """softmax(q k^T / sqrt(d)) v for q (B, T, N d), kv (B, L, 2 N d) holding k, then v; mask (B, L) uint8 is 1 for keys that exist."""
        out = torch.empty_like(q)
        self._attend(q, kv, mask, heads, [out.data_ptr(), None, None, None, None])
        return out

    def attend_back(self, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of q and kv of `attend` for the gradient dy of its result."""
        dq, dkv = torch.empty_like(q), torch.empty_like(kv)
        self._attend(q, kv, mask, heads, [None, dy.data_ptr(), dq.data_ptr(), dkv.data_ptr(), dkv.data_ptr() + 2 * q.shape[-1]])
        return dq, dkv

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor | None, heads: int, rest: list[int | None]) -> None:
        (batch, queries, width), keys = q.shape, kv.shape[1]
        assert q.is_contiguous()
        assert kv.is_contiguous()
        assert q.dtype == kv.dtype == torch.bfloat16
        assert kv.shape[-1] == 2 * width
        each = width // heads
        start = kv.data_ptr()
        if self._call["attend"](q.data_ptr(), start, start + 2 * width, _pointer(mask), *rest, batch, heads, queries, keys, each, width, 2 * width,
                                each**-0.5):
            raise MemoryError("no memory for attention")


def fits(x: Tensor, dy: Tensor) -> bool:
    """Whether `weight_grad` takes these sizes: channels in sixteens, an even width, positions in sixteens."""
    return x.shape[1] % 16 == 0 and dy.shape[1] % 16 == 0 and x.shape[3] % 2 == 0 and x.shape[2] * x.shape[3] % 16 == 0


def nhwc(x: Tensor) -> Tensor:
    """x (B, C, H, W) in bfloat16, laid out with the channels innermost."""
    return x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _sizes(x: Tensor) -> tuple[int, int, int]:
    batch, channels, height, width = x.shape
    assert x.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last)
    return batch * height * width, height * width, channels
