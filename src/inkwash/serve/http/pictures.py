"""Pictures that came decoded from a child process of the web process, at the size of a request."""

from __future__ import annotations

from PIL import Image, ImageOps

from inkwash.errors import UsageError
from inkwash.picture import Picture, fit_pictures
from inkwash.serve.http.raster import Raster, Start


def read_pictures(start: Start, width: int, height: int) -> tuple[Picture, Picture | None, str]:
    """(picture, mask, note). Raises UsageError: mask_without_alpha, mask_size_differs."""
    mask = None if start.mask is None else _image(start.mask)
    painted = mask if mask is None or start.white_paints else _transparent(mask)
    picture, cut, note = fit_pictures(_image(start.image), painted, width, height)
    assert picture is not None
    return picture, cut, note


def _image(found: Raster) -> Image.Image:
    return Image.frombytes(found.mode, (found.width, found.height), found.data)


def _transparent(mask: Image.Image) -> Image.Image:
    """White where the picture is transparent."""
    if mask.mode != "RGBA":
        raise UsageError("mask_without_alpha", "the mask has no transparency; make transparent what shall be painted")
    return ImageOps.invert(mask.getchannel("A"))
