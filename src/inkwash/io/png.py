"""Pictures on disk: PNG files that say how they were made, and never overwrite one another.

Three texts go into each file. `parameters` is read by the tools of the field: the prompt, a line `Negative prompt: ...`, and a last
line `Steps: 20, Sampler: ddim, ...` in which a value with a comma, colon or line break is quoted as JSON. `inkwash` is JSON and has all
that it takes to make the picture again. XMP names the IPTC digital source type, by which others know a picture made by a model.
The hash of a picture is the SHA-256 of its RGB bytes, row by row: it survives a new compression and any change of metadata.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from inkwash.errors import CheckpointError, DataError, UsageError
from inkwash.io.durable import space_for, sync_folder
from inkwash.io.path import as_path

KEY = "inkwash"
MAX_PIXELS = 1 << 26
_TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{_TRAINED}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def pixel_sha256(image: Image.Image) -> str:
    """SHA-256 of the RGB bytes."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def infotext(prompt: str, negative: str, settings: Mapping[str, object]) -> str:
    """The `parameters` text: prompt, negative prompt where there is one, and `Key: value` pairs on the last line."""
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {quote(str(value))}" for key, value in settings.items())])


def quote(value: str) -> str:
    """A value as it stands in the last line: quoted as JSON when it has a comma, colon, quote or line break."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) else value


_PAIR = re.compile(r'(?<![^,])\s*+(\w[\w \-/]*+):\s*+("(?:\\.|[^"\\])*+"|[^,]*+)(?:,|$)')
"""A pair begins after a comma, and nothing is tried twice: whoever wrote the text, one pass."""


def read_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """(prompt, negative prompt, settings): the inverse of `infotext`. A last line with fewer than three pairs belongs to the prompt."""
    *head, last = text.split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        head, pairs = [*head, last], []
    settings = {key: json.loads(value) if value.startswith('"') else value.strip() for key, value in pairs}
    start = next((i for i, line in enumerate(head) if line.startswith("Negative prompt: ")), len(head))
    negative = "\n".join(head[start:]).removeprefix("Negative prompt: ")
    return "\n".join(head[:start]), negative, settings


def png_bytes(image: Image.Image, parameters: str, record: Mapping[str, Any]) -> bytes:
    """The file's content, with all three texts."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", parameters)
    info.add_itxt(KEY, json.dumps(record, ensure_ascii=False, sort_keys=True))
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_png(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """The picture and its `inkwash` record.

    Raises DataError `file_not_found`, `image_too_large`, and `bad_image` for what is not a readable PNG; CheckpointError `no_parameters` for a
    picture without a record of ours; UsageError `bad_path`.
    """
    as_path(path, "the picture")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError("image_too_large", f'"{path}" has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read')
            image.load()
            text = getattr(image, "text", {}).get(KEY)
            picture = image.convert("RGB")
    except FileNotFoundError:
        raise DataError("file_not_found", f'there is no file "{path}"; give a PNG that inkwash made') from None
    except Image.DecompressionBombError:
        raise DataError("image_too_large", f'"{path}" has more than {MAX_PIXELS} pixels; give a PNG that inkwash made') from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("bad_image", f'cannot read "{path}" as PNG: {error}; give a PNG that inkwash made') from None
    try:
        record = json.loads(text) if text else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise CheckpointError("no_parameters", f'"{path}" has no inkwash parameters, so it cannot be made again; '
                                               "give a PNG made by inkwash that no other program has saved again")
    return picture, record


class Names:
    """Where pictures go: `out` is a .png file, a folder, or None for outputs/DATE; taken names are passed over."""

    def __init__(self, out: str | None) -> None:
        path = as_path(out, "-o") if out is not None else Path("outputs") / date.today().isoformat()
        suffix = path.suffix.lower()
        if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"):
            raise UsageError("bad_output", f'-o "{out}": pictures are written as .png; give FILE.png or a folder')
        try:
            single = suffix == ".png" and not path.is_dir()
        except OSError as error:
            raise UsageError("bad_path", f'cannot write to "{str(path)[:200]}": {error.strerror}; give another place by -o') from None
        self.file = path if single else None
        self.folder = path.parent if self.file else path

    def prepare(self) -> None:
        """Makes the folder and proves that it can be written. Raises UsageError `output_not_writable`."""
        probe = self.folder / f".inkwash-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with probe.open("xb"):
                pass
            probe.unlink()
        except OSError as error:
            raise UsageError("output_not_writable", f'cannot write to "{self.folder}": {error.strerror}; give another place by -o') from None

    def candidates(self, seed: int) -> Iterator[Path]:
        """Names to try, in order."""
        if self.file:
            yield self.file
            yield from (self.file.with_name(f"{self.file.stem}-{number}.png") for number in count(2))
        else:
            try:
                taken = [int(found[1]) for path in self.folder.iterdir() if (found := re.match(r"(\d{5,})-", path.name))]
            except OSError as error:                       # the folder went away since
                raise UsageError("output_not_writable", f'cannot write to "{self.folder}": {error.strerror}; give another place by -o') from None
            yield from (self.folder / f"{number:05}-{seed}.png" for number in count(max(taken, default=0) + 1))

    def save(self, data: bytes, seed: int) -> Path:
        """Writes durably under the first free name; a file that exists is never touched. Raises ResourceError `disk_full`."""
        with space_for(self.folder, len(data)):
            for path in self.candidates(seed):
                try:
                    file = path.open("xb")
                except FileExistsError:
                    continue
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise UsageError("output_not_writable", f'cannot write "{path}": {error.strerror}; give another place by -o') from None
                try:
                    with file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
                sync_folder(self.folder)
                return path
        raise AssertionError("names never run out")
