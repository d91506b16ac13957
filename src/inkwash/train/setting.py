"""Where a run happens: its data, device and folders, handed to the task.

Pictures are made by a `preview` that is handed in, since training stands below sampling and cannot import it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from inkwash.codec import Codec
from inkwash.condition import Conditioner
from inkwash.data.arrays import Progress
from inkwash.data.buckets import shapes
from inkwash.data.item import Source
from inkwash.data.loader import Batch, Loader
from inkwash.data.source import distinct
from inkwash.denoiser import Denoiser
from inkwash.errors import InkwashWarning, UsageError
from inkwash.io.info import ModelInfo
from inkwash.train.config import RunConfig, SampleConfig

F = TypeVar("F", bound=Callable[..., Any])
Preview = Callable[[Path, Denoiser, Codec, Conditioner, ModelInfo, SampleConfig], None]


@dataclass(frozen=True)
class Setting:
    """`preview(path, denoiser, codec, conditioner, info, sample)` draws a sheet; `names` are the data paths' last parts, for the card; `cache` is a
    folder for decoded pixels, latents and tokens, and `progress` is told how far it is; `train` and `validation` share no item."""

    train: Source
    validation: Source | None
    cache: Path
    out: Path
    device: torch.device
    rank: int = 0
    world: int = 1
    preview: Preview | None = None
    names: tuple[str, ...] = ()
    progress: Progress | None = None

    def loader(self, config: RunConfig, source: Source, name: str, *, flip: bool, batch: int | None = None, alone: bool = False) -> Loader:
        """A loader of `source` for the micro-batches of `config`; with `alone` every process loads the same, all of it as squares.

        Of held-out items as many may be unreadable as of all data: they are few, and one that is damaged would be a large share of them.
        """
        data = config.data
        size = shapes(data.size, data.step, data.ratio) if data.mode == "bucket" and not alone else data.size
        limit = data.unreadable if name == "train" else min(1.0, data.unreadable * (1 + len(distinct(self.train)) / len(source)))
        return Loader(source, batch or config.batch // config.accumulate, size=size, seed=config.seed,
                      mode="pad" if data.mode == "pad" else "crop", flip=flip, rewrite=data.rewrite if name == "train" else (),
                      rank=0 if alone else self.rank, world=1 if alone else self.world, cache=self.cache if data.cache else None,
                      quarantine=self.out / ("quarantine.jsonl" if name == "train" else f"quarantine-{name}.jsonl"), limit=limit,
                      accumulate=1 if alone else config.accumulate, progress=self.progress)

    def held_out(self, config: RunConfig) -> Batch | None:
        """All held-out items at once, the same in every process; None when there are none."""
        if self.validation is None:
            return None
        loader = self.loader(config, self.validation, "validation", flip=False, batch=len(self.validation), alone=True)
        try:
            return loader.batch(0)
        finally:
            loader.close()

    def require_multiple(self, config: RunConfig, multiple: int) -> None:
        """Raises UsageError `bad_buckets` when buckets would have shapes that a network cannot take: sides must be multiples of `multiple`."""
        if config.data.mode == "bucket" and config.data.step % multiple:
            raise UsageError("bad_buckets", f"data.step {config.data.step} must be a multiple of {multiple}, by which this model divides height and "
                                            f"width; set data.step={-(-config.data.step // multiple) * multiple}")

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def signed(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float32 in [-1, 1], channels last, on the device."""
        return (images.to(self.device).float() / 127.5 - 1).to(memory_format=torch.channels_last)


def can_compile() -> bool:
    """Whether torch.compile can build kernels here; warns when it cannot."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        return True
    warnings.warn("compile: true has no effect, no C++ compiler was found; install g++ to train about twice as fast", InkwashWarning, stacklevel=2)
    return False


def compiled(function: F) -> F:
    """torch.compile of a function."""
    return torch.compile(function)  # type: ignore[return-value]
