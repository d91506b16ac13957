"""A child process that decodes one picture of a stranger: `python -m inkwash.serve.http.decode LIMIT`, file on stdin, pixels on stdout.

A decoder is code in C that reads what anybody sends. Here it has a process of its own, without keys, with little memory and a limit of time;
whatever it does, one request ends with an error. Out come a line of JSON and raw pixels, in which nothing can hide: no metadata, no format that
anybody must parse again. The picture is upright; what it had of transparency is kept, for a mask means it.

    RGB     8 bits, no transparency        RGBA    8 bits, with it        I       16-bit grey
"""

from __future__ import annotations

import json
import resource
import sys

from PIL import Image, ImageOps

from inkwash.data.encoded import open_encoded
from inkwash.errors import DataError

MEMORY = 2 << 30                                           # bytes of address space
CPU_SEC = 20


def decode(data: bytes, limit: int) -> Image.Image:
    """The picture, in one of the modes above. Raises DataError."""
    image = open_encoded(data, "the picture", limit)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            return upright.convert("I")
        clear = upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info
        return upright.convert("RGBA" if clear else "RGB")
    except Exception as error:                                                          # damaged data raises almost anything
        raise DataError("image_unreadable", f"the picture cannot be decoded: {error or type(error).__name__}") from None


def main() -> None:
    """One picture from stdin to stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SEC, CPU_SEC))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        image = decode(sys.stdin.buffer.read(), int(sys.argv[1]))
        head, pixels = {"mode": image.mode, "width": image.width, "height": image.height}, image.tobytes()
    except DataError as error:
        head, pixels = {"code": error.code, "message": error.message}, b""
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + pixels)


if __name__ == "__main__":
    main()
