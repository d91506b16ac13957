"""Reading every image once before training: a few bad ones are set aside, many stop the run.

Damaged images are named in quarantine.jsonl and replaced by the next readable item, a rule that depends on the data alone. Above the
limit (2 % of the items) something is wrong with the data set itself, and training on the rest would hide it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from inkwash.data.arrays import Progress, cached_array, forget
from inkwash.data.item import Source
from inkwash.data.source import on_disk
from inkwash.data.transform import decode
from inkwash.errors import DataError
from inkwash.io.durable import space_for

LIMIT = 0.02
SAMPLE = 50_000


def preflight(source: Source, *, limit: float = LIMIT, sample: int = SAMPLE, cache: Path | None = None,
              progress: Progress | None = None) -> dict[int, str]:
    """Unreadable items among all of them (at most `sample`, evenly spread): {index: reason}.

    The result is kept in `cache` under the fingerprint. Raises DataError `too_many_unreadable` above `limit`.
    """
    files = on_disk(source)
    chosen = files if len(files) <= sample else files[np.linspace(0, len(files) - 1, sample).astype(np.int64)]

    def nothing(index: int) -> int:
        decode(source[index], hint=32)
        return 0

    folder = None if cache is None else Path(cache) / f"preflight-{len(chosen)}-{source.fingerprint}"
    return checked(source, chosen, nothing, (), folder, limit=limit, progress=progress)[1]


def checked(source: Source, chosen: np.ndarray, value: Callable[[int], np.ndarray | int], shape: tuple[int, ...], folder: Path | None, *,
            limit: float, progress: Progress | None) -> tuple[np.ndarray, dict[int, str]]:
    """`value(i)` for every chosen item, uint8 (N, *shape), zero where it raises DataError, and the reasons {i: why}; kept in `folder` when given.

    Raises DataError `too_many_unreadable` above `limit`; what cannot be read is then tried again next time.
    """
    bad: dict[int, str] = {}                                                            # by row

    def refuse(count: int, total: int | None = None) -> dict[int, str]:
        found = {int(chosen[row]): why for row, why in sorted(bad.items())}
        refuse_above(source, found, count, limit, total=total)
        return found

    def compute(rows: range) -> np.ndarray:
        out = np.zeros((len(rows), *shape), dtype=np.uint8)
        for slot, row in enumerate(rows):
            try:
                out[slot] = value(int(chosen[row]))
            except DataError as error:
                bad[row] = error.message
        refuse(rows.stop, len(chosen))
        return out

    try:
        if folder is None:
            chunks = [range(first, min(first + 64, len(chosen))) for first in range(0, len(chosen), 64)]
            array = np.concatenate([np.zeros((0, *shape), np.uint8), *map(compute, chunks)])
        else:
            array = cached_array(folder, len(chosen), shape, "uint8", compute, notes=bad, progress=progress)
        return array, refuse(len(chosen))
    except DataError:
        if folder is not None:
            forget(folder)
        raise


def refuse_above(source: Source, bad: Mapping[int, str], checked: int, limit: float, *, total: int | None = None) -> None:
    """Raise DataError `too_many_unreadable` when `bad` is above `limit` of `checked`; with `total`, when it is sure to end above it.

    Early on it waits for ten, so that the message has examples.
    """
    early = total is not None and checked < total
    if len(bad) > max(math.floor(limit * (total or checked)), 10 if early else 0):
        first = ", ".join(source.key(index) for index in sorted(bad)[:10])
        raise DataError("too_many_unreadable", f"{len(bad)} of {checked} images checked cannot be read; the limit is {limit:.0%}. "
                                               f"List them all: inkwash data check PATH. First, in {source.describe()}: {first}")


class Quarantine:
    """The set of unusable items, and its file: one JSON object a line, with index, key, where and reason. Lines are never repeated."""

    def __init__(self, source: Source, path: Path | None) -> None:
        self._source = source
        self._path = None if path is None else Path(path)
        self.reasons: dict[int, str] = {}
        self._written: set[tuple[str, str]] = set()                                    # key and place: folders may share keys
        self._lock = threading.Lock()
        if self._path is not None and self._path.is_file():
            self._written = {entry for line in self._path.read_bytes().splitlines() if (entry := _entry(line)) is not None}

    def add(self, index: int, why: str, *, record: bool = True) -> None:
        """Set one item aside, and write its line unless another process does."""
        with self._lock:
            if index in self.reasons:
                return
            self.reasons[index] = why
            key, where = self._source.key(index), self._source.where(index)
            if record and self._path is not None and (key, where) not in self._written:
                self._written.add((key, where))
                line = json.dumps({"index": index, "key": key, "where": where, "reason": why}) + "\n"
                with space_for(self._path, len(line)):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    with self._path.open("a", encoding="utf-8") as stream:
                        stream.write(line)

    def usable(self, index: int, try_item: Callable[[int], str | None]) -> int:
        """`index`, or the next item (cyclically) for which `try_item` has no complaint. Raises DataError when there is none."""
        count = len(self._source)
        for offset in range(count):
            candidate = (index + offset) % count
            if candidate in self.reasons:
                continue
            why = try_item(candidate)
            if why is None:
                return candidate
            self.add(candidate, why)
        raise DataError("data_unreadable", f"none of the {count} images can be read; list the reasons: inkwash data check PATH")

    def summary(self) -> str:
        """One sentence for the end of a run; "" when nothing was set aside."""
        if not self.reasons:
            return ""
        place = f"; see {str(self._path)!r}" if self._path is not None else ""
        return f"{len(self.reasons)} of {len(self._source)} images could not be read and were replaced by their neighbours{place}"


def _entry(line: bytes) -> tuple[str, str] | None:
    """The key and the place in a line of the file; None of one that was cut when a process was killed."""
    try:
        row = json.loads(line)
        return str(row["key"]), str(row["where"])
    except (ValueError, KeyError, TypeError):
        return None
