"""Uploaded pictures, decoded in the worker process. The size in the header is checked before a pixel is read, and metadata ends here."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from inkwash.data.transform import probe
from inkwash.errors import UsageError
from inkwash.picture import Picture, fit_pictures

MAX_PIXELS = 4096 * 4096


def read_pictures(image: bytes, mask: bytes | None, white_paints: bool, width: int, height: int) -> tuple[Picture, Picture | None, str]:
    """(picture, mask, note) at the size of a request; what is transparent in `mask` is to be painted, or what is white.

    Raises DataError: image_format, image_too_large, image_unreadable; UsageError: mask_without_alpha, mask_size_differs.
    """
    for data in (image, *([] if mask is None else [mask])):
        probe(data, MAX_PIXELS)
    found, painted, note = fit_pictures(image, None if mask is None else mask if white_paints else _transparent(mask), width, height)
    assert found is not None
    return found, painted, note


def _transparent(data: bytes) -> Picture:
    """White where the picture is transparent."""
    Picture.of(data)                                       # a damaged file is refused by its own name
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
        upright = ImageOps.exif_transpose(opened)
        if "A" not in upright.getbands() and "transparency" not in upright.info:
            raise UsageError("mask_without_alpha", "the mask has no transparency; make transparent what shall be painted")
        return Picture.of(ImageOps.invert(upright.convert("RGBA").getchannel("A")))
