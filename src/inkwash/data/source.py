"""Opening data: which reader a path needs, and several paths as one.

A path may carry a weight: `photos*3` counts every image of `photos` three times in an epoch. `scenes:NUM` needs no files. Positions in a
`Mixture` are counted with repeats; `origin` maps them to the distinct items, which is what caches store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from inkwash.data.folder import MetadataFolder, caption_folders
from inkwash.data.item import FORMATS, IMAGE_SUFFIXES, Item, Source, fingerprint_of
from inkwash.data.parquet import Parquet
from inkwash.data.scenes.source import Scenes, open_scenes
from inkwash.data.tar import Tar
from inkwash.errors import DataError
from inkwash.io.path import as_paths

__all__ = ["Concat", "Item", "Mixture", "Source", "distinct", "open_source", "origin"]

Index = np.ndarray                                                                      # int64


class Concat:
    """Several sources, one after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self._first = np.cumsum([0] + [len(part) for part in self.parts])              # (parts + 1,)
        self.fingerprint = fingerprint_of("concat", [part.fingerprint for part in self.parts])

    def __len__(self) -> int:
        return int(self._first[-1])

    def _place(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.parts[part], index - int(self._first[part])

    def __getitem__(self, index: int) -> Item:
        source, inner = self._place(index)
        return source[inner]

    def key(self, index: int) -> str:
        source, inner = self._place(index)
        return source.key(inner)

    def where(self, index: int) -> str:
        source, inner = self._place(index)
        return source.where(inner)

    def caption(self, index: int) -> str:
        source, inner = self._place(index)
        return source.caption(inner)

    def describe(self) -> str:
        return "; ".join(part.describe() for part in self.parts)


class Mixture:
    """Sources with repeats: part k counts `repeats[k]` times. `base` holds every item once."""

    def __init__(self, parts: Sequence[Source], repeats: Sequence[int]) -> None:
        self.base = Concat(parts)
        self.repeats = list(repeats)
        lengths = [len(part) for part in parts]
        self._lengths = np.array(lengths, dtype=np.int64)
        self._base_first = np.cumsum([0] + lengths)                                    # (parts + 1,)
        self._first = np.cumsum([0] + [length * count for length, count in zip(lengths, repeats, strict=True)])
        self.fingerprint = fingerprint_of("mixture", [self.base.fingerprint, self.repeats])

    def __len__(self) -> int:
        return int(self._first[-1])

    def origin(self, index: Index) -> Index:
        """Positions with repeats -> positions in `base`. Raises IndexError outside."""
        index = np.asarray(index, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(index)
        part = np.searchsorted(self._first, index, side="right") - 1
        return np.asarray(self._base_first[part] + (index - self._first[part]) % self._lengths[part])

    def __getitem__(self, index: int) -> Item:
        return self.base[int(self.origin(np.array(index)))]

    def key(self, index: int) -> str:
        return self.base.key(int(self.origin(np.array(index))))

    def where(self, index: int) -> str:
        return self.base.where(int(self.origin(np.array(index))))

    def caption(self, index: int) -> str:
        return self.base.caption(int(self.origin(np.array(index))))

    def describe(self) -> str:
        return "; ".join(f"{part.describe()} (x{count})" if count > 1 else part.describe()
                         for part, count in zip(self.base.parts, self.repeats, strict=True))


@runtime_checkable
class Repeating(Protocol):
    """A source whose positions are not its items: `origin` maps them to those of `base`."""

    base: Source

    def origin(self, index: Index) -> Index: ...


def distinct(source: Source) -> Source:
    """The source without repeats."""
    return source.base if isinstance(source, Repeating) else source


def origin(source: Source, index: Index) -> Index:
    """Positions in `source` -> positions in `distinct(source)`."""
    return source.origin(index) if isinstance(source, Repeating) else np.asarray(index, dtype=np.int64)


def on_disk(source: Source) -> Index:
    """Positions of the items that come from files, so that they may be damaged; drawn scenes cannot be."""
    if isinstance(source, Scenes):
        return np.arange(0)
    if isinstance(source, Concat):
        starts = np.cumsum([0] + [len(part) for part in source.parts])
        return np.concatenate([on_disk(part) + start for part, start in zip(source.parts, starts[:-1], strict=True)])
    return np.arange(len(source))


def open_source(paths: str | Path | Iterable[str | Path]) -> Source:
    """One source over all paths, in order.

    Raises UsageError `bad_path`; DataError: data_missing, data_permission, data_empty, data_mixed, bad_metadata, ...
    """
    given = as_paths(list(paths) if isinstance(paths, Iterable) and not isinstance(paths, str) else paths, "data")
    if not given:
        raise DataError("data_missing", f"no data path was given; formats: {FORMATS}")
    parts = [(part, count * weight) for path, weight in map(_weight, given) for part, count in _open_path(path)]
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    if all(count == 1 for _, count in parts):
        return Concat([part for part, _ in parts])
    return Mixture([part for part, _ in parts], [count for _, count in parts])


def _weight(text: str | Path) -> tuple[Path, int]:
    match = re.fullmatch(r"(.+)\*(\d{1,6})", str(text), flags=re.DOTALL)
    if match and not os.path.lexists(text):
        if int(match[2]) == 0:
            raise DataError("bad_weight", f"the weight of {match[1]!r} is 0; use a whole number from 1, or leave the path out")
        return Path(match[1]), int(match[2])
    return Path(text), 1


def _open_path(path: Path) -> list[tuple[Source, int]]:
    if str(path).startswith("scenes:"):
        return [(open_scenes(str(path)), 1)]
    try:
        if path.is_dir():
            return _open_folder(path)
        if not os.path.lexists(path):
            raise DataError("data_missing", f"there is no {str(path)!r} (looked in {str(Path.cwd())!r}); formats: {FORMATS}")
        if path.suffix == ".parquet":
            return [(_full(Parquet([path]), path), 1)]
        if path.suffix == ".tar":
            return [(_full(Tar([path]), path), 1)]
        if path.name == "metadata.jsonl":
            return [(_full(MetadataFolder(path), path), 1)]
    except PermissionError as error:
        raise DataError("data_permission", f"no permission to read {str(error.filename or path)!r}; allow reading or name another path") from None
    raise DataError("data_format", f"{str(path)!r} is not a data format known here; formats: {FORMATS}")


def _full(source: Source, path: Path) -> Source:
    if not len(source):
        raise DataError("data_empty", f"{str(path)!r} holds 0 images; formats: {FORMATS}")
    return source


def _stop(error: OSError) -> None:
    raise error


def _open_folder(root: Path) -> list[tuple[Source, int]]:
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_stop):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    by_suffix = {suffix: [file for file in files if file.suffix.lower() == suffix] for suffix in (".parquet", ".tar")}
    metadata = [file for file in files if file.name == "metadata.jsonl"]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    kinds = {"Parquet files": by_suffix[".parquet"], "tar shards": by_suffix[".tar"], "images": metadata or images}
    found = {name: members for name, members in kinds.items() if members}
    if not found:
        raise DataError("data_empty", f"found 0 images among {len(files)} file{'s' if len(files) != 1 else ''} in {str(root)!r}; formats: {FORMATS}")
    if len(found) > 1:
        counts = " and ".join(f"{len(members)} {name}" for name, members in found.items())
        raise DataError("data_mixed", f"{str(root)!r} holds {counts}; name the files or sub-folders that you want one by one")
    if by_suffix[".parquet"]:
        return [(_full(Parquet(by_suffix[".parquet"]), root), 1)]
    if by_suffix[".tar"]:
        return [(_full(Tar(by_suffix[".tar"]), root), 1)]
    if metadata:
        return [(_full(MetadataFolder(file), file), 1) for file in metadata]
    return [(part, count) for part, count in caption_folders(root, images)]
