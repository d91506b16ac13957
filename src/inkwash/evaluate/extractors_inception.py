"""Inception v3 as a feature extractor."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.errors import CheckpointError
from inkwash.evaluate.features import Extractor


def load_inception(path: Path, device: torch.device = torch.device("cpu")) -> Extractor:
    """The Inception v3 in a safetensors file."""
    raise CheckpointError("arch_mismatch", f'"{path}" is not an Inception v3')
