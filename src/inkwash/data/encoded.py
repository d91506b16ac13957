"""Which encoded pictures are opened at all: PNG, JPEG and WebP, not larger than a limit, by the header alone. Stands on Pillow only."""

from __future__ import annotations

import io

from PIL import Image

from inkwash.errors import DataError


def open_encoded(data: bytes, name: str, limit: int) -> Image.Image:
    """The picture, its pixels not yet decoded. Raises DataError image_unreadable, image_format, image_too_large, beginning with `name`."""
    if not data:
        raise DataError("image_unreadable", f"{name} is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
    except Image.DecompressionBombError:
        raise DataError("image_too_large", f"{name} has more than {limit} pixels") from None
    except Exception as error:                                                          # a damaged header raises almost anything
        raise DataError("image_format", f"{name} is not a PNG, JPEG or WebP image ({type(error).__name__})") from error
    if image.width * image.height > limit:
        raise DataError("image_too_large", f"{name} is {image.width}x{image.height}; the limit is {limit} pixels")
    return image
