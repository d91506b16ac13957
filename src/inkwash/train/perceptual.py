"""How far apart two pictures are to a network that was trained to look: the perceptual distance (Zhang et al. 2018, arXiv 1801.03924).

    d(x, y) = mean over resolutions of mean over positions of |u(x) - u(y)|^2

with u the vector of activations at a position, of length 1, before what the network makes of them. The weights that the paper learns from people's
judgements are 1 here. The network is the embedded feature extractor, one of the recipe `features`, or the image tower of a contrastive run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import CheckpointError
from inkwash.io.find import MODELS
from inkwash.io.folder import load_part, part_folder
from inkwash.io.tensors import digest
from inkwash.nn.clip import Clip
from inkwash.nn.features import FeatureNet
from inkwash.nn.image_tower import ImageTower

EMBEDDED = MODELS / "features"


class Perceptual(nn.Module):
    """The distance in the activations of `network`, which is frozen."""

    def __init__(self, network: FeatureNet | ImageTower) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def factor(self) -> int:
        """Height and width of pictures must be multiples of this."""
        factor: int = self.network.config.factor
        return factor

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return digest(self.network.state_dict())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], twice -> (B,), between 0 and 4; the gradient goes to y. Raises UsageError `bad_size`."""
        real, made = self.network.maps(x.detach()), self.network.maps(y)                # not under no_grad: both by the same kernels
        return torch.stack([(F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).flatten(1).mean(1)
                            for a, b in zip(real, made)]).mean(0)


def load_perceptual(path: Path | None) -> Perceptual:
    """That of the extractor or the CLIP of this package in a folder; without one, of the embedded extractor.

    Raises CheckpointError `no_part`, and those of `load_part`.
    """
    found = EMBEDDED if path is None else path
    for part in ("extractor", "clip"):
        try:
            folder = part_folder(found, part)
        except CheckpointError:
            continue
        network: Any = load_part(folder, part)
        if isinstance(network, Clip):
            network = network.image
        if isinstance(network, FeatureNet | ImageTower):
            return Perceptual(network)
    raise CheckpointError("no_part", f'"{found}" has neither a feature extractor nor the image tower of a CLIP; '
                                     "give the --out folder of a run of the recipe features or mini-contrastive, or leave perceptual_from out")
