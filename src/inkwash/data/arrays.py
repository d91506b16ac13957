"""Arrays computed once and kept on disk, by as many processes as need them.

    pixels-128-KEY/  rows.npy  00000000-00000256.json  00000256-00000512.json  ...

`rows.npy` has its whole size from the start, and the rows are computed in pieces. The file named after a piece is its lock and then, once its
rows are on the disk, the note that says so. A process takes the pieces that nobody is at and then waits for the others. So processes share the
work without knowing of one another, the lock of a killed one is free, and what it had finished is found again. Where pieces begin depends on
nothing but the number of rows, and so do the bytes. The name of the folder has the key: all that the values depend on.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inkwash.errors import ResourceError
from inkwash.io.durable import PARTIAL, space_for, with_sync

try:
    import fcntl
except ImportError:                                                                     # Windows: two processes do the work twice, safely
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int, int, str], None]                                              # done, total, what
PIECES = 256                                                                            # at most, for arrays of any length
ROWS = "rows.npy"


def cached_array(
    folder: Path,
    count: int,
    shape: tuple[int, ...],
    dtype: str,
    compute: Callable[[range], np.ndarray],
    *,
    chunk: int = 64,
    notes: MutableMapping[int, str] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The array (count, *shape) in `folder`, read-only and memory-mapped; what is not there yet is computed.

    `compute(range)` returns `chunk` rows, fewer at the end. `notes` are what it says of single rows: they are kept, and given back on reuse.
    Raises ResourceError `disk_full`, `cache_permission`.
    """
    if count == 0:
        return np.zeros((0, *shape), dtype=dtype)
    size = chunk * -(-count // (chunk * PIECES))
    pieces = {folder / f"{first:08d}-{min(first + size, count):08d}.json": range(first, min(first + size, count)) for first in range(0, count, size)}
    notes = {} if notes is None else notes

    def tell() -> None:
        if progress is not None:
            progress(sum(len(pieces[mark]) for mark in _finished(pieces)), count, folder.name.rpartition("-")[0])

    size_bytes = math.prod((count, *shape)) * np.dtype(dtype).itemsize
    try:
        with space_for(folder.parent, size_bytes, "what was computed so far is kept"):
            folder.mkdir(parents=True, exist_ok=True)
            _make_room(folder, (count, *shape), np.dtype(dtype))
            tell()
            for wait in (False, True):
                for mark, rows in list(pieces.items()):
                    said = _read(mark)
                    if said is None:
                        said = _compute(mark, rows, compute, chunk, notes, wait)
                        tell()
                    notes.update(said or {})
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ResourceError("cache_permission", f"cannot write the cache {str(folder)!r} of {size_bytes / 2**20:.1f} MiB: {error.strerror}; "
                                                "allow writing or name another cache folder") from error
    array: np.ndarray = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)
    return array


def _finished(marks: Iterable[Path]) -> list[Path]:
    """The marks of pieces whose rows are on the disk."""
    return [mark for mark in marks if mark.is_file() and mark.stat().st_size]


def forget(folder: Path) -> None:
    """Pieces of which something was said are computed again when the array is asked for next."""
    for mark in folder.glob("*.json"):
        if _read(mark):
            mark.unlink(missing_ok=True)


def _read(mark: Path) -> dict[int, str] | None:
    """What was said of the rows of a finished piece; None for one that is not finished, or whose mark is cut."""
    try:
        return {int(row): str(text) for row, text in json.loads(mark.read_bytes()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _compute(mark: Path, rows: range, compute: Callable[[range], np.ndarray], chunk: int, notes: MutableMapping[int, str],
             wait: bool) -> dict[int, str] | None:
    """Computes a piece unless another process is at it or has finished it. What was said of its rows; None when it is another's and not awaited."""
    with mark.open("ab") as lock:
        if not _lock(lock, wait):
            return None
        said = _read(mark)
        if said is not None:
            return said
        path = mark.with_name(ROWS)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("r+b") as file:
            for start in range(rows.start, rows.stop, chunk):
                part = range(start, min(start + chunk, rows.stop))
                values = np.ascontiguousarray(compute(part), dtype=array.dtype)
                assert values.shape == (len(part), *array.shape[1:]), f"compute gave {values.shape} for {len(part)} rows of {array.shape[1:]}"
                file.seek(array.offset + start * array.strides[0])
                file.write(values.data)
            file.flush()
            os.fsync(file.fileno())
        said = {row: notes[row] for row in rows if row in notes}
        lock.truncate(0)
        lock.write(json.dumps(said).encode())
        lock.flush()
        os.fsync(lock.fileno())
        return said


def _make_room(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Makes the file of all rows, with its blocks claimed, unless it is there. The marks of one that is not what it should be are void."""
    path = folder / ROWS
    if _fits(path, shape, dtype):
        return
    with (folder / ".lock").open("ab") as lock:
        _lock(lock, wait=True)
        if _fits(path, shape, dtype):
            return
        for mark in folder.glob("*.json"):
            mark.unlink()
        partial = folder / f"{PARTIAL}{ROWS}"
        try:
            np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):                                          # a full disk is told now and not after hours
                with partial.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
            with_sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _fits(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return array.shape == shape and array.dtype == dtype


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Locks an open file until it is closed; False when another process has it and is not awaited."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
    return True
