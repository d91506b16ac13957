"""A small extractor with random weights and a small data set, so that an evaluation takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inkwash.io.folder import save_part
from inkwash.nn.features import FeatureNetConfig

WORDS = ["a small red cube", "two green cones in soft light", "a black leather jacket", "a blue sphere"]


def build_extractor(folder: Path) -> Path:
    """The folder of a feature network of 12 numbers, as its recipe writes it."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_part(folder, "extractor", FeatureNetConfig(size=32, patch=4, widths=(8, 8), blocks=(0, 1), features=(4, 8)).build())
    return folder


def build_data(folder: Path, count: int = 60) -> Path:
    """A folder of pictures with captions."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        base = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(base).resize((40, 32), Image.Resampling.BILINEAR).save(folder / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text(WORDS[i % len(WORDS)])
    return folder
