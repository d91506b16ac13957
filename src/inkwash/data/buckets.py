"""Aspect buckets: images of several shapes with about the same area, one shape a batch (NovelAI, 2022).

Every image goes to the shape whose aspect ratio is nearest in the logarithm. A shape with fewer images than a batch joins its nearest
neighbour, so that no batch repeats one image many times. An epoch is a permutation of all batches; a shape's last batch is filled from
the start of its own permutation, so every image appears at least once and at most B - 1 appear twice per shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inkwash.data.arrays import Progress, cached_array
from inkwash.data.item import Source
from inkwash.data.order import Slots
from inkwash.data.shuffle import mix, permute
from inkwash.data.source import distinct, origin
from inkwash.data.transform import probe
from inkwash.errors import DataError, UsageError

Shape = tuple[int, int]                                                                 # height, width


def shapes(size: int, step: int = 32, ratio: float = 2.0) -> tuple[Shape, ...]:
    """Heights and widths that are multiples of `step`, have at most size^2 pixels and an aspect ratio within 1/ratio..ratio.

    For each width the tallest that fits is kept. Raises UsageError `bad_buckets`.
    """
    if step < 1 or size < step or size % step or ratio < 1:
        raise UsageError("bad_buckets", f"size {size} must be a multiple of the step {step}, and the ratio {ratio} at least 1")
    found = set()
    for width in range(step, int(size * ratio) + 1, step):
        height = size * size // width // step * step
        if height and 1 / ratio <= width / height <= ratio:
            found |= {(height, width), (width, height)}
    return tuple(sorted(found | {(size, size)}, key=lambda shape: (shape[1] / shape[0], shape)))


def nearest(sizes: np.ndarray, among: Sequence[Shape]) -> np.ndarray:
    """The number of the shape nearest in log aspect for each (height, width); sizes (N, 2) -> (N,)."""
    aspect = np.log(sizes[:, 1] / sizes[:, 0])                                          # (N,)
    targets = np.log([width / height for height, width in among])                       # (K,)
    return np.asarray(np.abs(aspect[:, None] - targets[None]).argmin(1))


def image_sizes(source: Source, folder: Path | None = None, progress: Progress | None = None) -> np.ndarray:
    """(height, width) of every item from its header, (N, 2) int32; (1, 1) for an unreadable one. Kept in `folder` when given."""

    def compute(rows: range) -> np.ndarray:
        out = np.ones((len(rows), 2), dtype=np.int32)
        for slot, index in enumerate(rows):
            try:
                width, height = probe(source[index])
            except DataError:
                continue                                                                # the check before training names it
            out[slot] = height, width
        return out

    if folder is None:
        return compute(range(len(source)))
    return cached_array(folder / f"sizes-{source.fingerprint}", len(source), (2,), "int32", compute, chunk=512, progress=progress)


class Bucketed:
    """An order whose batches have one shape each. `sizes` are the images' own (height, width), (N, 2), over distinct items."""

    def __init__(self, source: Source, sizes: np.ndarray, batch_size: int, seed: int, among: Sequence[Shape]) -> None:
        assert len(sizes) == len(distinct(source))
        bucket = nearest(sizes, among)[origin(source, np.arange(len(source)))]
        groups = {number: np.flatnonzero(bucket == number) for number in np.unique(bucket).tolist()}
        while len(groups) > 1 and min(map(len, groups.values())) < batch_size:
            small = min(groups, key=lambda number: (len(groups[number]), number))
            members = groups.pop(small)
            goal = min(groups, key=lambda number: (abs(_log_aspect(among[number]) - _log_aspect(among[small])), number))
            groups[goal] = np.sort(np.concatenate([groups[goal], members]))
        self.shapes = [among[number] for number in groups]
        self.members = list(groups.values())
        self.batch_size, self.seed = batch_size, seed
        self._first = np.cumsum([0] + [-(-len(members) // batch_size) for members in self.members])
        self.steps_per_epoch = float(self._first[-1])
        self.name = f"bucketed {len(source)} {batch_size} {seed} {[(shape, len(m)) for shape, m in zip(self.shapes, self.members, strict=True)]}"

    def at(self, step: int) -> Slots:
        """Global batch `step`, from 0."""
        total = int(self._first[-1])
        epoch, offset = divmod(step, total)
        era = np.full(1, epoch, dtype=np.int64)
        number = int(permute(np.full(1, offset, dtype=np.int64), total, self.seed, era)[0])
        group = int(np.searchsorted(self._first, number, side="right")) - 1
        members = self.members[group]
        start = (number - int(self._first[group])) * self.batch_size
        position = np.arange(start, start + self.batch_size, dtype=np.int64) % len(members)
        eras = np.full(self.batch_size, epoch, dtype=np.int64)
        own_seed = int(mix(self.seed, group, 0xB0CC))
        return Slots(eras, members[permute(position, len(members), own_seed, eras)], self.shapes[group])


def _log_aspect(shape: Shape) -> float:
    return float(np.log(shape[1] / shape[0]))
