"""The one way to write a file or folder that must survive a power cut.

`replace()` alone loses the new file when power fails before the data reaches the disk. So: write a temporary neighbour, fsync it,
replace, fsync the directory. A folder is filled under a temporary name, every file synced, and renamed once: readers see all or nothing.
A full disk becomes ResourceError `disk_full` that says how much was needed, how much is free, and what is still intact.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inkwash.errors import ResourceError

PARTIAL = ".partial-"
OLD = f"{PARTIAL}old-"                                     # what is being replaced
_MIB = 2**20


def sync_folder(folder: Path) -> None:
    """Makes the names inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder where there is none, its parents too, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


@contextmanager
def space_for(folder: Path, num_bytes: int, intact: str = "") -> Iterator[None]:
    """Turns "no space left" (or a quota, or a size limit) inside the block into ResourceError `disk_full`; `intact` ends the message.

    Of blocks inside one another the outermost that knows its size speaks: it knows what was wanted in all.
    """
    try:
        yield
    except ResourceError as error:
        if error.code != "disk_full" or not num_bytes:
            raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
    else:
        return
    where = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(where).free
    raise ResourceError("disk_full", f'cannot write to "{folder}": needs {num_bytes / _MIB:.1f} MiB, {free / _MIB:.1f} MiB free in "{where}"; '
                                     f"free some space and run again{'; ' + intact if intact else ''}")


def write_bytes(path: Path, data: bytes, intact: str = "") -> None:
    """Writes `data` to `path` atomically and durably. Raises ResourceError `disk_full`; the old file, if any, is then untouched."""
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    with space_for(path.parent, len(data), intact):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def write_text(path: Path, text: str, intact: str = "") -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"), intact)


@contextmanager
def new_folder(path: Path, num_bytes: int = 0, intact: str = "") -> Iterator[Path]:
    """Gives a temporary neighbour of `path` to fill; at the end it becomes `path`, durably, replacing an older folder of that name.

    A link stays, and what it names is replaced. `num_bytes` is what will be written, for the message of `disk_full`. When the block raises, nothing
    is left behind.
    """
    path = path.resolve()
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    old = path.with_name(f"{OLD}{os.getpid()}-{path.name}")
    with space_for(path.parent, num_bytes, intact):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            for inside in partial.rglob("*"):
                with_sync(inside)
            sync_folder(partial)
            if path.exists():
                path.rename(old)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def with_sync(path: Path) -> None:
    """fsync of a file or folder that was written before."""
    if path.is_dir():
        sync_folder(path)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_partials(folder: Path) -> None:
    """Deletes what a killed process left half-written in `folder`; a folder that it had moved away to replace it gets its name back."""
    for path in folder.glob(f"{OLD}*"):
        name = path.name.removeprefix(OLD).partition("-")[2]
        if name and not (folder / name).exists():
            path.rename(folder / name)
            sync_folder(folder)
    for path in folder.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_orphans(folder: Path) -> None:
    """Deletes the files in `folder` that processes of this machine left half-written when they were killed; others may be writing there."""
    for path in folder.glob(f"{PARTIAL}*"):
        found = re.match(r"(\d+)-", path.name.removeprefix(PARTIAL))
        if found and path.is_file() and not _alive(int(found[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:                                # of another user
        return True
    return True
