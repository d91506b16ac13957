"""Scenes as a data source, and scenes written to files.

`scenes:1000` (also `scenes:1000:SEED` or `scenes:1000:SEED:SIZE`) is a data path like any other: number i is drawn when it is asked for.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from inkwash.data.arrays import Progress
from inkwash.data.item import Item, fingerprint_of
from inkwash.data.parquet import pyarrow_parquet
from inkwash.data.scenes.caption import compose
from inkwash.data.scenes.layout import CANVAS, EVERYTHING, Dice, bounds, sample, visible
from inkwash.data.scenes.render import render
from inkwash.data.scenes.wanted import Wanted, read
from inkwash.errors import DataError, UsageError
from inkwash.io.durable import PARTIAL, space_for
from inkwash.io.path import as_path

VERSION = 1                                                                             # counts changes that draw other pixels or words


class Picture(NamedTuple):
    """A scene drawn: pixels uint8 (size, size, 3), caption, and labels that can be written as JSON."""

    pixels: np.ndarray
    caption: str
    labels: dict[str, object]


def draw(seed: int, number: int, size: int = 128, *, pixels: bool = True, wanted: Wanted = EVERYTHING) -> Picture:
    """Scene `number` of the endless row `seed`. Boxes in the labels are left, top, right, bottom in pixels."""
    dice = Dice(seed, number)
    scene = sample(dice, wanted)
    caption, relation = compose(scene, dice)
    scale = size / CANVAS
    shown = visible(scene.things)
    objects = []
    for at, group in enumerate(scene.groups):
        members = [index for index, thing in enumerate(scene.things) if thing.group == at]
        objects.append({
            "shape": group.shape, "color": group.colour, "size": group.size, "material": group.material, "count": group.count,
            "boxes": [[round(float(edge) * scale, 1) for edge in bounds(scene.things[index])] for index in members],
            "visible": [round(shown[index], 3) for index in members],
        })
    labels: dict[str, object] = {
        "objects": objects, "relation": relation, "light": scene.light, "light_from": "left" if scene.side < 0 else "right",
        "background": scene.background, "seed": seed, "number": number,
    }
    return Picture(render(scene, size) if pixels else np.zeros((0, 0, 3), dtype=np.uint8), caption, labels)


class Scenes:
    """Source of `count` scenes. Captions are remembered once drawn: a run asks for each several times."""

    def __init__(self, count: int, seed: int = 0, size: int = 128, wanted: Wanted = EVERYTHING) -> None:
        if count < 1 or not 16 <= size <= 1024 or not 0 <= seed < 2**63:
            raise UsageError("bad_scenes", f"scenes need a number from 1, a size of 16..1024 and a seed of 0..2^63-1, got {count}, {size}, {seed}")
        self.count, self.seed, self.size, self.wanted = count, seed, size, wanted
        options = [wanted.text] if wanted.text else []
        self.fingerprint = fingerprint_of("scenes", [VERSION, count, seed, size, *options])
        self._prefix = f"scene-{seed}-" + (fingerprint_of("wanted", options)[:6] + "-" if options else "")
        self._captions: dict[int, str] = {}

    def __len__(self) -> int:
        return self.count

    def _check(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return index

    def __getitem__(self, index: int) -> Item:
        picture = draw(self.seed, self._check(index), self.size, wanted=self.wanted)
        self._captions[index] = picture.caption
        stream = io.BytesIO()
        Image.fromarray(picture.pixels).save(stream, "PNG", compress_level=1)
        return Item(self.key(index), stream.getvalue(), picture.caption, {"scene": picture.labels})

    def key(self, index: int) -> str:
        return f"{self._prefix}{self._check(index):07d}"

    def where(self, index: int) -> str:
        return f"scene {self._check(index)} of seed {self.seed}"

    def caption(self, index: int) -> str:
        if self._check(index) not in self._captions:
            self._captions[index] = draw(self.seed, index, self.size, pixels=False, wanted=self.wanted).caption
        return self._captions[index]

    def describe(self) -> str:
        return f"{self.count} drawn scenes of {self.size}x{self.size}, seed {self.seed}" + (f", {self.wanted.text}" if self.wanted.text else "")


def open_scenes(text: str) -> Scenes:
    """`scenes:NUM[:SEED[:SIZE]][,KEY=VALUE...]` as a source; see `wanted.read`. Raises DataError `bad_scenes`."""
    path, comma, options = text.partition(",")
    match = re.fullmatch(r"scenes:(\d{1,12})(?::(\d{1,19}))?(?::(\d{1,4}))?", path)
    if match is None or (comma and not options):
        raise DataError("bad_scenes", f"cannot read {text!r}; write scenes:NUM[:SEED[:SIZE]], and options as scenes:NUM,objects=1..2")
    source = Scenes(int(match[1]), int(match[2] or 0), int(match[3] or 128), read(options))
    if options:
        sample(Dice(source.seed, 0), source.wanted)                                     # words that exclude each other are found here
    return source


def write_scenes(source: Scenes, out: Path, kind: str, progress: Progress | None = None) -> Path:
    """Write all scenes below the folder `out` as "parquet", "folder" or "tar", all or nothing; returns the path to train on.

    Raises UsageError `bad_format`, `bad_path`, DataError `exists`, ResourceError `disk_full`.
    """
    writers: dict[str, Callable[[Scenes, Path, Progress], Path]] = {"parquet": _parquet, "folder": _folder, "tar": _tar}
    if kind not in writers:
        raise UsageError("bad_format", f"--format must be {', '.join(writers)}, got {kind!r}")
    out = as_path(out, "--out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("exists", f"{str(out)!r} exists and is not an empty folder; name another one")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{PARTIAL}scenes"                                                  # sources pass over names that begin with a dot
    partial.mkdir()
    try:
        with space_for(out, len(source[0].image) * len(source)):
            made = writers[kind](source, partial, progress or (lambda done, total, what: None))
            for path in sorted(partial.iterdir()):
                path.rename(out / path.name)
        partial.rmdir()
    except BaseException:
        shutil.rmtree(partial)
        if not any(out.iterdir()):
            out.rmdir()
        raise
    return out / made.relative_to(partial)


def _labels(item: Item) -> str:
    return json.dumps(item.meta["scene"], separators=(",", ":"))


def _parquet(source: Scenes, out: Path, progress: Progress) -> Path:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", pa.string()), ("scene", pa.string())])
    path = out / "scenes.parquet"
    with parquet.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, len(source), 512):
            items = [source[index] for index in range(start, min(start + 512, len(source)))]
            rows = [{"image": {"bytes": item.image, "path": item.key + ".png"}, "caption": item.caption, "scene": _labels(item)} for item in items]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            progress(start + len(items), len(source), "drawing scenes")
    return path


def _folder(source: Scenes, out: Path, progress: Progress) -> Path:
    (out / "images").mkdir()
    with (out / "metadata.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(len(source)):
            item = source[index]
            name = f"images/{item.key}.png"
            (out / name).write_bytes(item.image)
            stream.write(json.dumps({"file_name": name, "caption": item.caption, "scene": item.meta["scene"]}) + "\n")
            progress(index + 1, len(source), "drawing scenes")
    return out


def _tar(source: Scenes, out: Path, progress: Progress) -> Path:
    for start in range(0, len(source), 10_000):
        with tarfile.open(out / f"scenes-{start // 10_000:05d}.tar", "w") as archive:
            for index in range(start, min(start + 10_000, len(source))):
                item = source[index]
                for suffix, data in (("png", item.image), ("txt", item.caption.encode()), ("json", _labels(item).encode())):
                    info = tarfile.TarInfo(f"{item.key}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                progress(index + 1, len(source), "drawing scenes")
    return out
