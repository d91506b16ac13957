"""From encoded bytes to pixels: decode safely, then fit to a size.

Only PNG, JPEG and WebP are decoded, and the size in the header is checked before any pixel is. Transparent pixels are laid on white,
before resizing, so that no dark fringe appears. Resizing is Lanczos; a JPEG much larger than needed is reduced while it is decoded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from inkwash.data.encoded import open_encoded
from inkwash.data.item import Item
from inkwash.errors import DataError

MAX_PIXELS = 64 * 1024 * 1024
Mode = Literal["crop", "pad"]


def decode(item: Item | bytes, limit: int = MAX_PIXELS, *, hint: int | None = None) -> Image.Image:
    """The image as 8-bit RGB, upright, at most `limit` pixels; with `hint` (pixels) a JPEG may come smaller, but never below twice that.

    Raises DataError: image_format, image_too_large, image_unreadable.
    """
    key, image = _open(item, limit)
    try:
        if hint is not None:
            image.draft("RGB" if image.mode not in ("L", "CMYK") else None, (2 * hint, 2 * hint))
        image.load()
        return on_white(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:                                                          # damaged data raises almost anything
        raise DataError("image_unreadable", f"{key!r} cannot be decoded: {error or type(error).__name__}") from error


def probe(item: Item | bytes, limit: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) as displayed, from the header alone. Raises DataError: image_format, image_too_large, image_unreadable."""
    key, image = _open(item, limit)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception as error:                                                          # damaged EXIF raises almost anything
        raise DataError("image_unreadable", f"{key!r} has damaged EXIF data: {error or type(error).__name__}") from error
    return (image.height, image.width) if turned else (image.width, image.height)


def _open(item: Item | bytes, limit: int) -> tuple[str, Image.Image]:
    key, data = (item.key, item.image) if isinstance(item, Item) else ("image", item)
    return key, open_encoded(data, repr(key), limit)


def on_white(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode, what is transparent laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":                                 # 16-bit grey
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit(image: Image.Image, size: int | tuple[int, int], mode: Mode = "crop") -> Tensor:
    """Resize to `size` (one side, or height and width): centre crop, or pad with white. uint8 (3, H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    scale = (max if mode == "crop" else min)(width / image.width, height / image.height)
    if mode == "crop":
        box_w, box_h = width / scale, height / scale                                    # what stays, in source pixels
        left, top = (image.width - box_w) / 2, (image.height - box_h) / 2
        box = (max(0.0, left), max(0.0, top), min(float(image.width), left + box_w), min(float(image.height), top + box_h))
        return _tensor(image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    inner = (max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale))))
    canvas = Image.new("RGB", (width, height), "white")
    small = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0)
    canvas.paste(small, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return _tensor(canvas)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()              # (3, H, W)
