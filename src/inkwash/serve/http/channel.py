"""Frames between the web process and a worker: a JSON head and a body of bytes, over a socket pair.

    !II          length of the head, length of the body
    head         JSON in UTF-8: {"do": ...} to the worker, {"is": ...} from it
    body         a picture, or nothing; with "again": true in the head, the last large body to the worker once more

JSON and bytes, so that nothing is ever unpickled; a closed socket tells either side that the other one is gone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

LARGE = 1 << 20                                            # a body of so many bytes is sent once for several frames in a row
_SIZES = struct.Struct("!II")


class Frame(NamedTuple):
    """One message."""

    head: dict[str, Any]
    body: bytes = b""

    def pack(self) -> bytes:
        """The bytes to send."""
        head = json.dumps(self.head).encode()
        return _SIZES.pack(len(head), len(self.body)) + head + self.body


class Decoder:
    """Bytes as they arrive, to frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`."""
        self._held += data
        while len(self._held) >= _SIZES.size:
            head, body = _SIZES.unpack_from(self._held)
            end = _SIZES.size + head + body
            if len(self._held) < end:
                return
            frame = Frame(json.loads(self._held[_SIZES.size : _SIZES.size + head]), bytes(self._held[_SIZES.size + head : end]))
            del self._held[:end]
            yield frame
