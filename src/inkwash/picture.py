"""A picture that a request starts from: RGB bytes that never change, known by their hash.

A request is a value, so what it starts from must be one too: a file may be overwritten, its pixels may not. Two pictures are equal when
their sizes and bytes are, whatever file, format or metadata they came from. Files are decoded as training data is: PNG, JPEG and WebP
only, the header's size checked before any pixel is read, turned upright, transparency laid on white. Imports no torch until it is needed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as PillowImage
from PIL import ImageOps

from inkwash.errors import DataError, UsageError, shown
from inkwash.io.path import as_path

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 64 << 20
FORMATS = "give a PNG, JPEG or WebP picture of at most 64 MiB and 67108864 pixels"


@dataclass(frozen=True, repr=False)
class Picture:
    """`data` are the RGB bytes, row by row: 3 * width * height of them. As a mask, white is to be painted and black is to be kept."""

    width: int
    height: int
    data: bytes

    def __post_init__(self) -> None:
        check_sides(self.width, self.height)
        if not isinstance(self.data, bytes) or len(self.data) != 3 * self.width * self.height:
            raise UsageError("bad_image", f"a picture of {self.size} needs {3 * self.width * self.height} RGB bytes; Picture.of reads files")

    @classmethod
    def of(cls, source: Source) -> Picture:
        """The picture in a file, in the bytes of a file, or of Pillow.

        Raises DataError: file_not_found, image_format, image_too_large, image_unreadable; UsageError `bad_path`, and `bad_image` for anything else.
        """
        if isinstance(source, Picture):
            return source
        if not isinstance(source, str | Path | bytes | PillowImage.Image):
            raise UsageError("bad_image", f"a picture is a path, the bytes of a file or a Pillow image, got {type(source).__name__}")
        from inkwash.data.encoded import open_encoded
        from inkwash.data.item import Item
        from inkwash.data.transform import MAX_PIXELS, decode, on_white

        if isinstance(source, PillowImage.Image):
            if not source.width or not source.height:
                raise DataError("image_unreadable", f"a picture of {source.width}x{source.height} has no pixels; {FORMATS}")
            try:
                upright = ImageOps.exif_transpose(source)
                plain = {"F": "L", "La": "LA"}.get(upright.mode)                        # F of Pillow is 0..255 like L
                made = on_white(upright.convert(plain) if plain else upright)
            except MemoryError:
                raise
            except Exception as error:                                                  # a file not yet decoded, damaged; or one that is closed
                raise DataError("image_unreadable", f"the picture of Pillow cannot be read: {error or type(error).__name__}; {FORMATS}") from error
            return cls._plain(made)
        item = Item("the picture", source, "", {}) if isinstance(source, bytes) else Item(str(source), _read(as_path(source, "a picture")), "", {})
        if len(item.image) > MAX_BYTES:
            raise DataError("image_too_large", f'"{item.key}" has {len(item.image)} bytes; {FORMATS}')
        try:
            opened = open_encoded(item.image, repr(item.key), MAX_PIXELS)
            if opened.format in ("PNG", "WEBP") and getattr(opened, "is_animated", False):
                raise DataError("image_format", f"{item.key!r} is an animation")
            return cls._plain(decode(item))
        except DataError as error:
            raise DataError(error.code, f"{error.message}; {FORMATS}") from None

    @classmethod
    def _plain(cls, image: PillowImage.Image) -> Picture:
        return cls(image.width, image.height, image.tobytes())

    def __repr__(self) -> str:
        return f"Picture({self.size}, sha256={self.sha256[:16]})"

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        return f"{self.width}x{self.height}"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the RGB bytes: the hash that the record of a picture of ours holds."""
        return hashlib.sha256(self.data).hexdigest()

    def pil(self) -> PillowImage.Image:
        """The picture for Pillow."""
        return PillowImage.frombytes("RGB", (self.width, self.height), self.data)

    def pixels(self) -> Tensor:
        """(3, H, W) uint8."""
        import torch

        return torch.frombuffer(bytearray(self.data), dtype=torch.uint8).reshape(self.height, self.width, 3).permute(2, 0, 1).contiguous()

    def grey(self) -> Tensor:
        """(H, W) uint8, the brightness: how much a mask lets through."""
        import torch

        return torch.frombuffer(bytearray(self.pil().convert("L").tobytes()), dtype=torch.uint8).reshape(self.height, self.width)

    def fit(self, width: int, height: int) -> Picture:
        """The middle of the picture at that size, cut and resized (Lanczos) as training data is; itself where the size is right.

        Raises UsageError `invalid_size`.
        """
        check_sides(width, height)
        if (self.width, self.height) == (width, height):
            return self
        from inkwash.data.transform import fit

        return Picture(width, height, fit(self.pil(), (height, width)).permute(1, 2, 0).contiguous().numpy().tobytes())


def check_sides(width: object, height: object) -> None:
    """Raises UsageError `invalid_size` unless both are whole numbers of pixels."""
    for side in (width, height):
        if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= 1 << 16:
            raise UsageError("invalid_size", f"width and height must be whole numbers from 1 to {1 << 16}, got {shown(side, 40)!r}")


Source = Picture | str | Path | bytes | PillowImage.Image
"""What `Picture.of` reads: a picture, a path, the bytes of a file, a picture of Pillow."""


def fit_pictures(image: Source | None, mask: Source | None, width: int, height: int) -> tuple[Picture | None, Picture | None, str]:
    """(image, mask, note): both at that size, and a sentence where that cost something, else "".

    Raises UsageError `mask_size_differs` where the two are not of one size, and what `Picture.of` raises.
    """
    first, second = None if image is None else Picture.of(image), None if mask is None else Picture.of(mask)
    if first is None:
        return None, second, ""
    if second is not None and (first.width, first.height) != (second.width, second.height):
        raise UsageError("mask_size_differs", f"the mask has {second.size} pixels and the image {first.size}; give a mask of the image's size")
    note = f"the image of {first.size} was cut to its middle and resized to {width}x{height}"
    fitted = first.fit(width, height)
    return fitted, None if second is None else second.fit(width, height), "" if fitted is first else note


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError("image_too_large", f'"{path}" has {path.stat().st_size} bytes; {FORMATS}')
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)                                             # a device has size 0 and no end
    except FileNotFoundError:
        raise DataError("file_not_found", f'there is no file "{path}"; {FORMATS}') from None
    except OSError as error:
        raise DataError("image_unreadable", f'cannot read "{path}": {error.strerror}; {FORMATS}') from None
