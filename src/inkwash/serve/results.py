"""Finished images for equal requests, off unless asked for.

An image is a function of its request and the model, so the answer to an equal request has the same bytes, made again or remembered. An
engine has one model, so the request is the key; the tenant is a part of it, so that nobody learns from a fast answer what others asked.
"""

from __future__ import annotations

from collections import OrderedDict

from inkwash.output import Image
from inkwash.request import Request


class Results:
    """Up to `size` images, the least recently used dropped first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = 0
        self._kept: OrderedDict[tuple[str, Request], Image] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, tenant: str, request: Request) -> Image | None:
        """The image of an equal request of this tenant, if it is kept."""
        image = self._kept.get((tenant, request))
        if image is not None:
            self.hits += 1
            self._kept.move_to_end((tenant, request))
        return image

    def put(self, tenant: str, image: Image) -> None:
        """Keeps an image, where any are kept."""
        if self.size:
            self._kept[tenant, image.request] = image
            self._kept.move_to_end((tenant, image.request))
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)
