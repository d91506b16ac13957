"""Arrays computed once and kept on disk as memory-mapped .npy files.

An array is complete when its manifest says so: the data is written under another name, synced, moved into place, and only then the
manifest is written the same way. A run that dies in between leaves a file that the next run ignores. One process computes at a time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from inkwash.errors import ResourceError

try:
    import fcntl
except ImportError:                                                                     # Windows: two builders do the work twice, safely
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int, int, str], None]                                              # done, total, what


def cached_array(
    path: Path,
    key: str,
    count: int,
    shape: tuple[int, ...],
    dtype: str,
    compute: Callable[[range], np.ndarray],
    *,
    chunk: int = 64,
    notes: MutableMapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The array (count, *shape) at `path`, read-only and memory-mapped: the stored one if its manifest has this key, else computed now.

    `compute(range)` returns the rows of one chunk. What it puts in `notes` (JSON) is stored beside the array and given back on reuse.
    Raises ResourceError `disk_full`, `cache_permission`.
    """
    path = Path(path)
    manifest = {"format": 1, "key": key, "shape": [count, *shape], "dtype": np.dtype(dtype).str}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            stored = read_manifest(path)
            if stored is not None and {name: stored.get(name) for name in manifest} == manifest and path.stat().st_size == stored["bytes"]:
                if notes is not None:
                    notes.update(stored["notes"])
            else:
                _fill(path, manifest, (count, *shape), dtype, compute, chunk, {} if notes is None else notes, progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "cache_permission"
        size = math.prod((count, *shape)) * np.dtype(dtype).itemsize / 2**20
        raise ResourceError(code, f"cannot write the cache {str(path)!r} of {size:.1f} MiB: {error.strerror}; "
                                  "make room or name another cache folder") from error
    if count == 0:
        return np.zeros((0, *shape), dtype=dtype)
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the array at `path`, or None when there is no complete array."""
    try:
        loaded = json.loads(_manifest_path(path).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) and path.is_file() else None


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _fill(path: Path, manifest: dict[str, Any], shape: tuple[int, ...], dtype: str, compute: Callable[[range], np.ndarray], chunk: int,
          notes: MutableMapping[str, Any], progress: Progress | None) -> None:
    _manifest_path(path).unlink(missing_ok=True)
    partial = path.with_name(path.name + ".partial")
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.dtype(dtype), shape=shape)
    _reserve(partial)
    for start in range(0, shape[0], chunk):
        rows = range(start, min(start + chunk, shape[0]))
        values = np.asarray(compute(rows))
        assert values.shape == (len(rows), *shape[1:]), f"compute gave {values.shape} for {len(rows)} rows of {shape[1:]}"
        array[rows.start:rows.stop] = values
        if progress is not None:
            progress(rows.stop, shape[0], path.name)
    array.flush()
    del array
    sync(partial)
    os.replace(partial, path)
    write_text(_manifest_path(path), json.dumps({**manifest, "bytes": path.stat().st_size, "notes": dict(notes)}))


def _reserve(path: Path) -> None:
    """Claim the blocks of a sparse file now: writing to a memory map on a full disk would kill the process instead of raising."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def write_text(path: Path, text: str) -> None:
    """Replace the file durably: write aside, sync, move into place, sync the folder."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(name, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or, where the system can, a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("w") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
