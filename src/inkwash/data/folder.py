"""Folders of images: with metadata.jsonl, or with a same-name .txt caption beside every image.

metadata.jsonl holds one JSON object a line with `file_name` and `caption` or `text`; its index is the byte offset of every line.
In the other layout, a sub-folder called `10_name` counts ten times, and `name` is the caption of images that have no .txt file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inkwash.data.item import Item, caption_of, fingerprint_of, relative
from inkwash.errors import DataError

_REPEATS = re.compile(r"(\d{1,3})_(.+)")


class MetadataFolder:
    """Source over the images that one metadata.jsonl names. Reads a line by seeking to it."""

    def __init__(self, metadata: Path) -> None:
        self.metadata = Path(metadata)
        self.root = self.metadata.parent.resolve()
        offsets, parts, position = [], [], 0
        with self.metadata.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    fields = self._parse(line, number)
                    offsets.append(position)
                    path = self._path(fields)
                    parts.append([fields["file_name"], path.stat().st_size if path.is_file() else -1])
                position += len(line)
        self._offsets = np.array(offsets, dtype=np.int64)                              # (N,)
        self.fingerprint = fingerprint_of("metadata", [self.metadata.stat().st_size, *parts])

    def _parse(self, line: bytes, number: int) -> dict[str, object]:
        try:
            fields: dict[str, object] = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError("bad_metadata", f"line {number} of {str(self.metadata)!r} is not JSON ({error}); write one object a line") from None
        name = fields.get("file_name") if isinstance(fields, dict) else None
        if not isinstance(name, str) or not name:
            raise DataError("bad_metadata", f"line {number} of {str(self.metadata)!r} has no file_name; "
                                            'expected {"file_name": "a.png", "caption": "..."}')
        return fields

    def _path(self, fields: dict[str, object]) -> Path:
        name = str(fields["file_name"])
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError("bad_metadata", f"file_name {name!r} in {str(self.metadata)!r} leaves its folder; use a path below it")
        if "\0" in name:
            raise DataError("bad_metadata", f"file_name {name[:80]!r} in {str(self.metadata)!r} holds a NUL character; correct the line")
        return self.root / name

    def _fields(self, index: int) -> dict[str, object]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self.metadata.open("rb") as stream:
            stream.seek(int(self._offsets[index]))
            return self._parse(stream.readline(), index + 1)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Item:
        fields = self._fields(index)
        path = self._path(fields)
        return Item(str(fields["file_name"]), read_image(path), caption_of(fields), fields)

    def key(self, index: int) -> str:
        return str(self._fields(index)["file_name"])

    def where(self, index: int) -> str:
        return str(self.metadata.parent / self.key(index))

    def caption(self, index: int) -> str:
        return caption_of(self._fields(index))

    def describe(self) -> str:
        return f"{len(self)} images in {str(self.metadata.parent)!r} with metadata.jsonl"


class CaptionFolder:
    """Source over image files below `root`; the caption of a.png is in a.txt, else it is `fallback`."""

    def __init__(self, root: Path, files: Sequence[Path], fallback: str = "") -> None:
        self.root = Path(root)
        self.fallback = fallback.encode("utf-8", "replace").decode()                    # it is part of a file name
        self._names = [relative(file, self.root) for file in files]
        parts = []
        for file in files:
            text = file.with_suffix(".txt")
            parts.append([relative(file, self.root), file.stat().st_size if file.is_file() else -1, text.stat().st_size if text.is_file() else -1])
        self.fingerprint = fingerprint_of("captions", [fallback, *parts])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        name = self.key(index)
        return Item(name, read_image(self.root / name), self.caption(index), {"file_name": name})

    def key(self, index: int) -> str:
        if index < 0:
            raise IndexError(index)
        return self._names[index]

    def where(self, index: int) -> str:
        return str(self.root / self.key(index))

    def caption(self, index: int) -> str:
        text = (self.root / self.key(index)).with_suffix(".txt")
        if not text.is_file():
            return self.fallback
        return " ".join(text.read_text(encoding="utf-8", errors="replace").split())

    def describe(self) -> str:
        return f"{len(self)} images below {str(self.root)!r} with .txt captions"


def read_image(path: Path) -> bytes:
    """The file's bytes. Raises DataError `image_unreadable`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError("image_unreadable", f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def caption_folders(root: Path, files: Sequence[Path]) -> list[tuple[CaptionFolder, int]]:
    """The files by repeat count: sub-folders named `10_name` first-level below `root` (or `root` itself) count that many times."""
    groups: dict[tuple[int, str], list[Path]] = {}
    for file in files:
        parents = file.relative_to(root).parts[:-1]
        match = _REPEATS.fullmatch(parents[0] if parents else root.name)
        repeats = (int(match[1]), match[2]) if match and int(match[1]) > 0 else (1, "")
        groups.setdefault(repeats, []).append(file)
    return [(CaptionFolder(root, members, name), count) for (count, name), members in groups.items()]
