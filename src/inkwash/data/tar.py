"""WebDataset shards: tar files in which members of one example share a name up to its first dot (0001.jpg, 0001.txt, 0001.json).

The headers are read once to note the offset and the length of every member; an item is then two or three reads at known places.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inkwash.data.item import IMAGE_SUFFIXES, Item, caption_of, fingerprint_of
from inkwash.errors import DataError

_PARTS = ("image", "txt", "json")


class Tar:
    """Source over tar shards, in the order given. Members that are neither image, .txt nor .json are left alone."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [Path(file) for file in files]
        self._keys: list[str] = []
        rows: list[list[int]] = []                                                     # shard, then offset and length of image, txt, json
        parts: list[object] = []
        for shard, file in enumerate(self.files):
            for key, row in self._members(file).items():
                if row[0] >= 0:
                    self._keys.append(key)
                    rows.append([shard, *row])
                    parts.append([key, *row])
            parts.append([file.name, file.stat().st_size])
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 7)                     # (N, 7)
        self.fingerprint = fingerprint_of("tar", parts)

    @staticmethod
    def _members(file: Path) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    extension = extension.lower()
                    part = "image" if "." + extension in IMAGE_SUFFIXES else extension
                    if member.isfile() and stem and part in _PARTS:
                        row = found.setdefault(f"{folder}/{stem}" if folder else stem, [-1] * 6)
                        slot = 2 * _PARTS.index(part)
                        row[slot:slot + 2] = [member.offset_data, member.size]
        except PermissionError:
            raise DataError("data_permission", f"no permission to read {str(file)!r}; allow reading or name another path") from None
        except (tarfile.TarError, OSError) as error:
            raise DataError("data_unreadable", f"{str(file)!r} is not a readable, uncompressed tar file ({error}); "
                                               "unpack or write it again without compression") from error
        return found

    def _read(self, index: int, part: str) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        slot = 1 + 2 * _PARTS.index(part)
        offset, length = (int(value) for value in self._rows[index, slot:slot + 2])
        if offset < 0:
            return b""
        with self.files[int(self._rows[index, 0])].open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    def _fields(self, index: int) -> dict[str, object]:
        fields: dict[str, object] = {}
        text = self._read(index, "json")
        if text:
            try:
                loaded = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError("bad_metadata", f"the JSON of {self.where(index)} cannot be read ({error}); write the shard again") from None
            fields = loaded if isinstance(loaded, dict) else {"json": loaded}
        caption = self._read(index, "txt").decode("utf-8", errors="replace").strip()
        return {**fields, "caption": caption} if caption else fields

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Item:
        fields = self._fields(index)
        return Item(self.key(index), self._read(index, "image"), caption_of(fields), fields)

    def key(self, index: int) -> str:
        if index < 0:
            raise IndexError(index)
        return f"{self.files[int(self._rows[index, 0])].name}:{self._keys[index]}"

    def where(self, index: int) -> str:
        return f"{self.files[int(self._rows[index, 0])]} member {self._keys[index]}"

    def caption(self, index: int) -> str:
        return caption_of(self._fields(index))

    def describe(self) -> str:
        return f"{len(self)} images in {len(self.files)} tar shard{'s' if len(self.files) != 1 else ''}"
