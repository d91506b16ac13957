"""Looking at a data set before training on it: what cannot be read, what is there twice, what the captions say.

Exact duplicates share the SHA-256 of their pixels; near duplicates are found by `similar`. Of 200 one-bit flips in a JPEG 198 decode in
silence with wrong pixels, so a manifest of SHA-256 sums is written on the first check and compared on the next.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from inkwash.data.arrays import Progress
from inkwash.data.item import Item, Source
from inkwash.data.preflight import LIMIT
from inkwash.data.similar import Similar
from inkwash.data.transform import decode
from inkwash.errors import DataError
from inkwash.io.durable import write_text

MANIFEST = "data.sha256.jsonl"


@dataclass
class Report:
    """What `examine` found. `unreadable`: key, where, reason. Sizes are widths and heights in pixels."""

    images: int
    describe: str
    fingerprint: str
    unreadable: list[dict[str, str]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    captions: dict[str, float] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[list[str]] = field(default_factory=list)
    manifest: str = ""
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    limit: float = LIMIT

    @property
    def too_many(self) -> bool:
        """More unreadable images than training accepts."""
        return len(self.unreadable) > self.limit * self.images

    def as_json(self) -> str:
        return json.dumps({**asdict(self), "too_many_unreadable": self.too_many}, indent=2, ensure_ascii=False)


def item_sum(item: Item) -> str:
    """SHA-256 of an item's encoded image and its caption."""
    digest = hashlib.sha256(item.image)
    digest.update(b"\0" + item.caption.encode())
    return digest.hexdigest()


def examine(source: Source, *, manifest: Path | None = None, limit: float = LIMIT, progress: Progress | None = None) -> Report:
    """Read every item once. With `manifest`, compare with that file if it exists, else write it."""
    report = Report(len(source), source.describe(), source.fingerprint, limit=limit)
    sizes: Counter[str] = Counter()
    words: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    lengths: list[int] = []
    pixels: dict[str, list[str]] = {}
    near = Similar()
    sums: dict[str, str] = {}
    repeated: Counter[str] = Counter()                                                  # folders may share keys
    for index in range(len(source)):
        if progress is not None:
            progress(index + 1, len(source), "checking images")
        try:
            item = source[index]
            repeated[item.key] += 1
            sums[item.key if repeated[item.key] == 1 else f"{item.key} ({repeated[item.key]})"] = item_sum(item)
            image = decode(item)
        except DataError as error:
            report.unreadable.append({"key": source.key(index), "where": source.where(index), "reason": error.message})
            continue
        size = (image.width, image.height)
        report.smallest = min(report.smallest, size, key=_area) if sizes else size
        report.largest = max(report.largest, size, key=_area)
        sizes[f"{size[0]}x{size[1]}"] += 1
        found = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", item.caption.lower())
        lengths.append(len(found))
        words.update(found)
        captions[item.caption] += 1
        pixels.setdefault(hashlib.sha256(repr(size).encode() + image.tobytes()).hexdigest(), []).append(item.key)
        near.add(image, item.key)
    report.sizes = dict(sizes.most_common())
    report.captions = {
        "count": len(lengths), "empty": captions.get("", 0), "words": sum(lengths), "words_per_caption": round(float(np.mean(lengths or [0])), 2),
        "longest": max(lengths, default=0), "vocabulary": len(words), "used_once": sum(1 for count in words.values() if count == 1),
        "distinct": len(captions), "duplicates": sum(captions.values()) - len(captions),
    }
    report.duplicates = [keys for keys in pixels.values() if len(keys) > 1]
    exact = {frozenset(keys) for keys in report.duplicates}
    report.near_duplicates = [keys for keys in near.groups if len(keys) > 1 and frozenset(keys) not in exact]
    if manifest is not None:
        _compare(report, Path(manifest), sums)
    return report


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _compare(report: Report, path: Path, sums: dict[str, str]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps({"key": key, "sha256": value}) + "\n" for key, value in sums.items()))
        report.manifest = f"wrote {str(path)!r} ({len(sums)} sums)"
        return
    known = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            known[str(row["key"])] = str(row["sha256"])
        except (ValueError, KeyError, TypeError):
            raise DataError("bad_manifest", f"line {number} of {str(path)!r} is not a key with its sha256; "
                                            "delete the file to write it anew") from None
    report.changed = [key for key, value in sums.items() if key in known and known[key] != value]
    report.missing = [key for key in known if key not in sums]
    report.added = [key for key in sums if key not in known]
    if report.changed or report.missing or report.added:
        report.manifest = f"{len(report.changed)} of {len(known)} changed, {len(report.missing)} missing, {len(report.added)} new since {str(path)!r}"
    else:
        report.manifest = f"{len(known)} of {len(known)} as in {str(path)!r}"
