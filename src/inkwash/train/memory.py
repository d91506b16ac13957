"""Memory of a training step, kept from one step to the next.

A step takes and gives back some hundred megabytes. Left to itself the C library hands them back to the system, which clears each page of
4 KiB again when it is touched next: tens of thousands of faults a step. `keep` asks glibc to hold on to what it has, and Linux to use pages
of 2 MiB for it. It changes nothing but speed, and does nothing elsewhere than on Linux with glibc.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import sys
from pathlib import Path

_TRIM, _PAD, _MMAP = -1, -2, -3
_HUGE = 14
_LARGEST_MMAP = 32 << 20
_AHEAD = 1 << 30
_PAGE = 2 << 20


@functools.cache
def keep() -> bool:
    """Keeps freed memory in the process and asks for large pages; True where that is possible."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM, 2**31 - 1)
    library.mallopt(_MMAP, _LARGEST_MMAP)
    library.mallopt(_PAD, _AHEAD)
    with contextlib.suppress(MemoryError):
        torch_sized = bytearray(4 << 20)                                                # makes the heap grow ahead at once
        del torch_sized
    library.mallopt(_PAD, 64 << 20)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        if line.endswith("[heap]"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            first = (start + _PAGE - 1) // _PAGE * _PAGE
            library.madvise(first, end - first, _HUGE)
    return True
