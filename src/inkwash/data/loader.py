"""Batches by number: `batch(step)` is a pure function of (data, seed, step), so resuming is calling it with the next step.

An `Order` names the items of global batch `step`; rank r of W takes the r-th of W equal slices, so the ranks' union is the batch of one
process. An unreadable item is replaced by the next readable one. Nothing depends on what was loaded before; the prefetch thread and the
pixel cache change the speed only.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inkwash.data.arrays import Progress
from inkwash.data.buckets import Bucketed, Shape, image_sizes
from inkwash.data.captions import Forms, Rules
from inkwash.data.item import Source, fingerprint_of
from inkwash.data.order import Order, Slots, Uniform
from inkwash.data.preflight import LIMIT, Quarantine, checked, preflight
from inkwash.data.shuffle import coin
from inkwash.data.source import distinct, origin
from inkwash.data.transform import Mode, decode, fit
from inkwash.errors import DataError, UsageError


class Pick(NamedTuple):
    """Which items a batch holds: `index` counts distinct items; `flipped` says which are mirrored, `form` which form their captions have."""

    index: Tensor  # type: ignore[assignment]                                          # (B,) int64
    flipped: Tensor                                                                     # (B,) bool
    form: Tensor                                                                        # (B,) int64


class Batch(NamedTuple):
    """`index` counts distinct items, so it addresses caches; `images` are already flipped where `flipped` says so."""

    images: Tensor                                                                      # (B, 3, H, W) uint8
    captions: list[str]
    keys: list[str]
    index: Tensor  # type: ignore[assignment]                                          # (B,) int64
    flipped: Tensor                                                                     # (B,) bool


class Loader:
    """Batches from `source`; `batch_size` counts all ranks.

    size: the side of square images, or aspect-bucket shapes (see `buckets.shapes`). mode: "crop" (centre) or "pad" (white). flip: mirror
    each item with probability 1/2 in every epoch. rewrite: other forms of captions, see `captions.Forms`. cache: a folder for decoded
    pixels (square images) and image sizes. quarantine: a file for unreadable items. limit: their largest share. accumulate: how many
    batches make one optimizer step; with square images it changes nothing but what a batch is. Raises UsageError `bad_batch`; DataError
    `too_many_unreadable`, `data_empty`.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        size: int | tuple[Shape, ...],
        seed: int = 0,
        mode: Mode = "crop",
        flip: bool = False,
        rewrite: Rules = (),
        rank: int = 0,
        world: int = 1,
        cache: Path | None = None,
        quarantine: Path | None = None,
        limit: float = LIMIT,
        prefetch: int = 2,
        accumulate: int = 1,
        progress: Progress | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise UsageError("bad_batch", f"the batch size {batch_size} must be a positive multiple of the {world} processes")
        if not len(source):
            raise DataError("data_empty", "the data source holds 0 images; name a path that has some")
        assert 0 <= rank < world
        self.source, self.base = source, distinct(source)
        self.batch_size, self.seed, self.mode, self.flip = batch_size, seed, mode, flip
        self.rank, self.world = rank, world
        self.forms = Forms(self.base, rewrite)
        self.square = size if isinstance(size, int) else None
        self.quarantine = Quarantine(self.base, quarantine)
        self._pixels: np.ndarray | None = None
        folder = None if cache is None else Path(cache)
        if folder is not None and self.square is not None:
            self._pixels, bad = pixel_cache(self.base, self.square, mode, folder, limit=limit, progress=progress)
        else:
            bad = preflight(self.base, limit=limit, cache=folder, progress=progress)
        for index, why in sorted(bad.items()):
            self.quarantine.add(index, why, record=rank == 0)
        self._order: Order
        if isinstance(size, int):
            self._order = Uniform(len(source), batch_size, seed, (size, size), accumulate)
        else:
            self._order = Bucketed(source, image_sizes(self.base, folder, progress), batch_size, seed, size)
        self._ahead = prefetch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inkwash-data") if prefetch else None
        self._pending: dict[int, Future[Batch]] = {}
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Identifies the sequence of batches: store it in a checkpoint and compare before resuming."""
        return fingerprint_of("loader", [self.source.fingerprint, self._order.name, self.mode, self.flip, *self.forms.rules_text])

    def epoch(self, step: int) -> float:
        """Epochs completed before this step."""
        return step / self._order.steps_per_epoch

    def _slots(self, step: int) -> tuple[Slots, np.ndarray, np.ndarray, np.ndarray]:
        if step < 0:
            raise IndexError(step)
        whole = self._order.at(step)
        share = self.batch_size // self.world
        part = slice(self.rank * share, (self.rank + 1) * share)
        slots = Slots(whole.epoch[part], whole.index[part], whole.size)
        flipped = coin(self.seed, slots.epoch, slots.index) if self.flip else np.zeros(share, dtype=bool)
        return slots, origin(self.source, slots.index), flipped, self.forms.draw(self.seed, slots.epoch, slots.index)

    def pick(self, step: int) -> Pick:
        """The items of this rank's part of a global batch, for use with caches. With a pixel cache it reads no image."""
        _, base, flipped, form = self._slots(step)
        chosen = [self.quarantine.usable(int(index), self._complaint) for index in base]
        return Pick(torch.tensor(chosen, dtype=torch.int64), torch.from_numpy(flipped), torch.from_numpy(form))

    def _complaint(self, index: int) -> str | None:
        if self._pixels is not None:
            return None                                                                 # the cache named all that fail
        try:
            decode(self.base[index], hint=32)
        except DataError as error:
            return error.message
        return None

    def image(self, index: int) -> Tensor:
        """Distinct item `index` as a square image, uint8 (3, S, S); white when it is known to be unreadable, so that caches stay aligned."""
        assert self.square is not None
        if index in self.quarantine.reasons:
            return torch.full((3, self.square, self.square), 255, dtype=torch.uint8)
        return self._example(index, (self.square, self.square))[0]

    def _example(self, index: int, size: tuple[int, int]) -> tuple[Tensor, str]:
        if self._pixels is not None:
            return torch.from_numpy(np.array(self._pixels[index])), self.base.caption(index)   # (3, H, W)
        item = self.base[index]
        return fit(decode(item, hint=max(size)), size, self.mode), item.caption

    def _load(self, step: int) -> Batch:
        slots, base, flipped, forms = self._slots(step)
        images, captions, chosen = [], [], []
        for wanted, mirror, form in zip(base, flipped, forms, strict=True):
            held: dict[int, tuple[Tensor, str]] = {}

            def attempt(candidate: int, held: dict[int, tuple[Tensor, str]] = held) -> str | None:
                try:
                    held[candidate] = self._example(candidate, slots.size)
                except DataError as error:
                    return error.message
                return None

            found = self.quarantine.usable(int(wanted), attempt)
            image, caption = held[found]
            images.append(image.flip(-1) if mirror else image)
            captions.append(self.forms.write(caption, int(form)))
            chosen.append(found)
        keys = [self.base.key(index) for index in chosen]
        return Batch(torch.stack(images), captions, keys, torch.tensor(chosen, dtype=torch.int64), torch.from_numpy(flipped))

    def batch(self, step: int) -> Batch:
        """This rank's part of global batch `step`, from 0. The next ones are prepared in the background."""
        if self._pool is None or step < 0:
            return self._load(step)
        with self._lock:
            wanted = range(step, step + 1 + self._ahead)
            for old in [key for key in self._pending if key not in wanted]:
                self._pending.pop(old).cancel()
            for key in wanted:
                if key not in self._pending:
                    self._pending[key] = self._pool.submit(self._load, key)
            future = self._pending.pop(step)
        return future.result()

    def summary(self) -> str:
        """What was set aside, in one sentence; "" when nothing was."""
        return self.quarantine.summary()

    def close(self) -> None:
        """Stop the background thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def pixel_cache(source: Source, size: int, mode: Mode, folder: Path, *, limit: float = LIMIT,
                progress: Progress | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """All items decoded and fitted once: uint8 (N, 3, size, size) on disk, and the reasons of those that failed (their rows are zero)."""

    def pixels(index: int) -> np.ndarray:
        return fit(decode(source[index], hint=size), size, mode).numpy()

    key = fingerprint_of("pixels", [source.fingerprint, size, mode, 1])
    return checked(source, np.arange(len(source)), pixels, (3, size, size), folder / f"pixels-{size}-{key}", limit=limit,
                   progress=progress)
