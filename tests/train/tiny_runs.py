"""Tiny data and tiny runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inkwash.train.config import RunConfig, validate

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
TOY: dict[str, Any] = {
    "task": "denoiser", "process": "Cosine()", "prediction": "V()", "steps": 6, "batch": 4, "precision": "float32", "levels": "stratified",
    "network": "UNetConfig(in_channels=3, out_channels=3, widths=(8,), attention=(False,), cross=(False,), mid_attention=False)",
    "ema_half_life": 32, "log_every": 1, "checkpoint_every": 2, "validate_every": 0, "export_dtype": "float32",
    "optimizer": {"lr": 0.01}, "data": {"size": 8, "validation": 2},
}


def make_data(folder: Path, count: int = 24, size: int = 16) -> Path:
    """`count` captioned squares on noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        name = list(COLOURS)[i % 3]
        pixels = rng.integers(200, 255, (size, size, 3), dtype=np.uint8)
        pixels[4:12, 4:12] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"a {name} square {i % 2}")
    return folder


def toy(**changes: Any) -> RunConfig:
    """TOY with changes; a dict changes the keys inside."""
    raw = {**TOY, **{key: {**TOY.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()}}
    return validate(raw, "toy")


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def run(arguments: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, env=environment(**extra), timeout=240)
