"""Data sets of known pictures in every format."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = [(220, 30, 30), (30, 160, 40), (40, 60, 220), (240, 200, 30), (150, 60, 190)]


def picture(number: int, width: int = 24, height: int = 20) -> Image.Image:
    """A flat colour with a corner mark and a number-dependent stripe, so that every picture and its mirror image differ."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = COLOURS[number % len(COLOURS)]
    pixels[:, number % (width // 2)] = (number * 37 % 256, number * 11 % 256, 255)
    pixels[:4, :4] = 255
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return stream.getvalue()


def examples(count: int) -> list[tuple[str, bytes, str]]:
    return [(f"{number:04d}", encoded(picture(number)), f"picture number {number}") for number in range(count)]


def write_parquet(path: Path, rows: list[tuple[str, bytes, str]], *, struct: bool = True, text: str = "caption", group: int = 4) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = pa.array([{"bytes": data, "path": f"{name}.png"} for name, data, _ in rows]) if struct else pa.array([data for _, data, _ in rows])
    table = pa.table({"image": images, text: [caption for _, _, caption in rows], "number": list(range(len(rows)))})
    parquet.write_table(table, path, row_group_size=group)
    return path


def write_metadata(folder: Path, rows: list[tuple[str, bytes, str]], text: str = "caption") -> Path:
    (folder / "images").mkdir(parents=True)
    lines = []
    for name, data, caption in rows:
        (folder / "images" / f"{name}.png").write_bytes(data)
        lines.append(json.dumps({"file_name": f"images/{name}.png", text: caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_captions(folder: Path, rows: list[tuple[str, bytes, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data, caption in rows:
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.txt").write_text(caption + "\n")
    return folder


def write_tar(path: Path, rows: list[tuple[str, bytes, str]], *, as_json: bool = False) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data, caption in rows:
            text = json.dumps({"caption": caption}).encode() if as_json else caption.encode()
            for member, content in ((f"{name}.png", data), (f"{name}.{'json' if as_json else 'txt'}", text)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path
