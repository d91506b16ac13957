"""CIFAR-10 for the benchmark: 45,000 pictures to train on and 5,000 to measure against, the ones that `inkwash train` holds out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from inkwash.data.heldout import hold_out
from inkwash.data.source import open_source

FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-train.parquet"
HELD_OUT = 5000


def parts(folder: Path) -> dict[str, Tensor]:
    """"training" and "reference", uint8 (N, 3, 32, 32) each; decoded once."""
    cache = folder / "cifar10.safetensors"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept, apart = hold_out(open_source([FILE]), HELD_OUT)
        assert apart is not None
        tensors = {}
        for name, source in (("training", kept), ("reference", apart)):
            pixels = [np.array(Image.open(io.BytesIO(source[i].image)).convert("RGB")) for i in range(len(source))]
            tensors[name] = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        save_file(tensors, cache)
    return load_file(cache)


def examples(folder: Path, batch: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Batches of training pictures as x0 (B, 3, 32, 32), by torch's own random numbers, half of them mirrored."""
    images = parts(folder)["training"]

    def drawn(number: int) -> tuple[Tensor, ...]:
        chosen = images[torch.randint(0, len(images), (batch,))]
        flipped = torch.where((torch.rand(len(chosen)) < 0.5)[:, None, None, None], chosen.flip(-1), chosen)
        return ((flipped.float() / 127.5 - 1).to(memory_format=torch.channels_last),)

    return drawn


def reference(folder: Path) -> Tensor:
    """Held-out pictures, which no contestant has seen."""
    return parts(folder)["reference"]
