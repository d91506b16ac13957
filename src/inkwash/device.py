"""Where networks run and in which number format.

On processors with AMX or AVX512-BF16, bfloat16 weights multiply several times faster than float32 ones and carry enough precision for a
denoiser; elsewhere on CPUs they would be slower. Everything outside the networks stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from inkwash.errors import UsageError, shown

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def parse_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the accelerator when there is one. Raises UsageError `bad_device` for one that is not there."""
    known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    if shown(name, 40) == "auto":
        return torch.device(known[1] if len(known) > 1 else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        device = None
    full = f"{device.type}:{device.index or 0}" if device is not None and device.type == "cuda" else str(device)
    if device is None or full not in known:
        raise UsageError("bad_device", f"there is no device {shown(name, 40)!r} here; available: auto, {', '.join(known)}")
    return device


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """A number format that networks can have, or None. Raises UsageError `bad_dtype`."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in DTYPES):
        known = ", ".join(map(str, DTYPES))
        raise UsageError("bad_dtype", f"dtype must be one of {known}, got {str(dtype)[:40]!r} of type {type(dtype).__name__}")
    return dtype


@contextmanager
def on_host() -> Iterator[None]:
    """Makes tensors on the host unless they say otherwise, whatever default device the caller has set."""
    if torch.get_default_device().type == "cpu":           # every call of torch costs more inside such a context
        yield
        return
    with torch.device("cpu"):
        yield


class OwnPrecision:
    """While any thread is inside, float32 is multiplied on this kind of device as torch does at its start, whatever the caller has set.

    torch keeps these settings for the whole process (`set_float32_matmul_precision`, `torch.backends.*.fp32_precision`). So the first thread
    in sets them, where they differ, and the last one out puts back what was found.
    """

    def __init__(self, wanted: tuple[tuple[Any, tuple[str, ...]], ...]) -> None:
        self._wanted = wanted                              # a setting, and its values that mean the same as torch's own, which is the first
        self._lock, self._inside = Lock(), 0
        self._found: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            for setting, own in self._wanted:
                if (found := setting.fp32_precision) not in own:
                    self._found.append((setting, found))
                    setting.fp32_precision = own[0]

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            while self._found and not self._inside:
                setting, found = self._found.pop(0)
                setting.fp32_precision = "none"            # as the setting above it says, which it may have had its value from
                if setting.fp32_precision != found:
                    setting.fp32_precision = found


_FULL, _TF32 = ("ieee", "none"), ("tf32",)
_HOST = OwnPrecision(tuple((getattr(torch.backends.mkldnn, name), _FULL) for name in ("matmul", "conv", "rnn")))
_CUDA = OwnPrecision(((torch.backends.cuda.matmul, _FULL), *((getattr(torch.backends.cudnn, name), _TF32) for name in ("conv", "rnn"))))


def own_precision(device: torch.device) -> OwnPrecision:
    """The guard of that kind of device."""
    return _CUDA if device.type == "cuda" else _HOST


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it fast, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
