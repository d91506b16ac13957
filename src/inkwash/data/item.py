"""What a data set is made of.

An `Item` is an encoded image with its caption. A `Source` gives items by number and keeps only an index in memory, so the order of
reading is free: loaders, caches and checks address items by position and never hold a stream open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = "Parquet (.parquet), a folder with metadata.jsonl, PNG/JPEG/WebP images with same-name .txt captions, WebDataset shards (.tar)"


class Item(NamedTuple):
    """One example: a key that is unique in its source, the encoded image, the caption ("" when there is none), everything else."""

    key: str
    image: bytes
    caption: str
    meta: Mapping[str, object]


@runtime_checkable
class Source(Protocol):
    """Random access to items. `fingerprint` identifies names, sizes and order, so it changes whenever positions may mean other items."""

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...

    def key(self, index: int) -> str:
        """The item's key, without reading its image."""
        ...

    def caption(self, index: int) -> str:
        """The item's caption, without reading its image."""
        ...

    def where(self, index: int) -> str:
        """The place a person would look for the item: a path, or a file and its row."""
        ...

    def describe(self) -> str: ...


def fingerprint_of(kind: str, parts: Iterable[object]) -> str:
    """128 bits of SHA-256 over the parts in order, in hexadecimal."""
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(json.dumps(part, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()[:32]


def caption_of(fields: Mapping[str, object]) -> str:
    """The caption among an item's fields: `caption`, else `text`, else nothing. A list of captions gives its first."""
    for name in ("caption", "text"):
        value = fields.get(name)
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode().strip()                    # JSON may hold half a surrogate pair
    return ""


def relative(path: Path, root: Path) -> str:
    """The path below `root` with forward slashes: the same on every machine."""
    return path.relative_to(root).as_posix()
