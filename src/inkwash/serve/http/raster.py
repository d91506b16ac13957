"""Pictures of strangers, decoded in a child process each (decode.py) and held as raw pixels from then on.

A child that dies, hangs or answers nonsense costs one request one clear error. A few run at once; the others wait their turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from inkwash.errors import DataError
from inkwash.serve.http.errors import ApiError, from_inkwash

MAX_PIXELS = 4096 * 4096
DECODE_SEC = 20.0
COMMAND = (sys.executable, "-P", "-m", "inkwash.serve.http.decode", str(MAX_PIXELS))
BYTES = {"RGB": 3, "RGBA": 4, "I": 4}                     # of a pixel
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")
_turns = asyncio.Semaphore(4)


class Raster(NamedTuple):
    """Raw pixels, row by row; `mode` is RGB, RGBA or I."""

    mode: str
    width: int
    height: int
    data: bytes


class Start(NamedTuple):
    """What an image starts from: pictures, decoded, and how much changes.

    `mask` is painted where it is transparent or, with `white_paints`, where it is white.
    """

    image: Raster
    mask: Raster | None
    strength: float
    white_paints: bool = False

    @property
    def head(self) -> dict[str, Any]:
        """All but the pixels, for JSON."""
        return {"strength": self.strength, "white_paints": self.white_paints, "image": self.image[:3], "mask": self.mask and self.mask[:3]}

    @classmethod
    def of(cls, head: dict[str, Any], body: bytes) -> Start:
        """The inverse of `head` and `body`."""
        mode, width, height = head["image"]
        end = BYTES[mode] * width * height
        image, mask = Raster(mode, width, height, body[:end]), None
        if head["mask"] is not None:
            mode, width, height = head["mask"]
            mask = Raster(mode, width, height, body[end:])
        return cls(image, mask, head["strength"], head["white_paints"])

    @property
    def body(self) -> bytes:
        """The pixels, one picture after the other."""
        return self.image.data + (self.mask.data if self.mask is not None else b"")


async def decoded(data: bytes, name: str, limit_sec: float = DECODE_SEC, command: Sequence[str] = COMMAND) -> Raster:
    """The picture in a file that was sent as the field `name`.

    Raises ApiError: 400 `image_unreadable`, `image_too_large`, `image_timeout`, 415 `image_format`,
    503 `server_overloaded`.
    """
    async with _turns:
        try:
            child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                                                         stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
                                                         env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ})
        except OSError:                                    # no memory, no process, no pipe
            raise ApiError(503, "server_overloaded", "the server cannot decode a picture at the moment; try again later", name, retry_sec=5) from None
        try:
            async with asyncio.timeout(limit_sec):
                found, _ = await child.communicate(data)
        except TimeoutError:
            raise ApiError(400, "image_timeout", f"the picture was not decoded within {limit_sec:g} s; save it again as a plain PNG", name) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    try:
        return _read(found, name) if child.returncode == 0 else _failed(name)
    except (ValueError, KeyError, TypeError):
        return _failed(name)


def _read(found: bytes, name: str) -> Raster:
    """The picture, if it has as many bytes as its head says. Raises ApiError, and ValueError, KeyError or TypeError for nonsense."""
    line, _, pixels = found.partition(b"\n")
    head = json.loads(line)
    if "code" in head:
        raise from_inkwash(DataError(str(head["code"]), str(head["message"])), name)
    width, height = int(head["width"]), int(head["height"])
    if len(pixels) != BYTES[head["mode"]] * width * height or width * height > MAX_PIXELS:
        raise ValueError
    return Raster(head["mode"], width, height, pixels)


def _failed(name: str) -> NoReturn:
    raise ApiError(400, "image_unreadable", "the picture made its decoder fail; save it again as a plain PNG", name)
