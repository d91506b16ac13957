"""Near duplicates: the same picture stored twice with another size, format or compression.

A difference hash (Krawetz, 2013) is the 64 signs of the brightness steps of a 9 x 8 miniature. Two pictures are alike when their hashes
differ in at most 6 bits and their 8 x 8 colour miniatures by less than 4 of 255 levels on average. Candidates share one of the hash's
four 16-bit bands, so pictures whose hashes differ in up to 3 bits are always compared; in a crowded band only the latest 64 groups are.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_BITS, _LEVELS, _CROWD = 6, 4.0, 64


def difference_hash(image: Image.Image) -> int:
    """64 bits: is each cell of an 8 x 8 grid brighter than its right neighbour?"""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Similar:
    """Groups of keys whose pictures look alike, in the order of their first picture."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self._first: list[tuple[int, np.ndarray]] = []                                  # hash and miniature of each group's first picture
        self._bands: dict[tuple[int, int], list[int]] = {}

    def add(self, image: Image.Image, key: str) -> None:
        """Put the picture into the first group that it resembles, or into a new one."""
        code = difference_hash(image)
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).astype(np.int16)   # (8, 8, 3)
        bands = [(band, code >> (16 * band) & 0xFFFF) for band in range(4)]
        for number in sorted({number for band in bands for number in self._bands.get(band, [])[-_CROWD:]}):
            other, miniature = self._first[number]
            if (code ^ other).bit_count() <= _BITS and np.abs(miniature - small).mean() < _LEVELS:
                self.groups[number].append(key)
                return
        for band in bands:
            self._bands.setdefault(band, []).append(len(self.groups))
        self.groups.append([key])
        self._first.append((code, small))
