"""CLIP as a feature extractor (Radford et al. 2021, arXiv 2103.00020): images and texts as unit vectors of one space."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.errors import CheckpointError
from inkwash.evaluate.features import TextExtractor


def is_clip(path: Path) -> bool:
    """Whether the folder holds both towers of a CLIP."""
    return False


def load_clip(path: Path, device: torch.device = torch.device("cpu")) -> TextExtractor:
    """The CLIP in a folder."""
    raise CheckpointError("no_part", f'"{path}" has no CLIP with an image tower')
