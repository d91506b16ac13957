"""Extractors that are one network: resize, scale, micro-batches of one size. Among them `ink`, which is inside the package.

`ink` was trained by the recipe `features` on emoji, photos of garments and drawn scenes, apart from every generator here. Its vector is made
of what the network sees at three scales, each number divided by its standard deviation over training pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import CheckpointError, UsageError
from inkwash.io.folder import load_part, require_match
from inkwash.io.tensors import digest

PART = "extractor"
MICRO_BATCH = 16
CPU = torch.device("cpu")


def embedded() -> Path:
    """The folder of the embedded extractor."""
    return Path(__file__).resolve().parents[2] / "models" / "features"


def check_images(images: Tensor) -> None:
    """Raises UsageError `bad_images` unless `images` is uint8 (B, 3, H, W) with B, H, W at least 1."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise UsageError("bad_images", f"images must be uint8 of shape (B, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}")


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (B, 3, height, width) in 0..255: bicubic, antialiased, clamped, not rounded. The same size is exact."""
    values = images.float()
    if tuple(images.shape[-2:]) == (height, width):
        return values
    return F.interpolate(values, (height, width), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


class NetworkExtractor:
    """`network`, in eval mode, sees `prepare(images)` for `MICRO_BATCH` images at a time and answers with (MICRO_BATCH, dim).

    `prepare` maps uint8 (B, 3, H, W) to what the network takes; `unit` divides each vector by its length.
    """

    def __init__(self, name: str, network: nn.Module, prepare: Callable[[Tensor], Tensor], dim: int, *, unit: bool = False,
                 device: torch.device = CPU, weights_hash: str | None = None) -> None:
        self.name, self.dim, self.unit, self.device = name, dim, unit, device
        self.hash = weights_hash or digest(network.state_dict())
        self.network = network.eval().requires_grad_(False).to(device)
        self.prepare = prepare

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, dim) on the CPU. Raises UsageError `bad_images`."""
        check_images(images)
        rows = []
        for part in images.split(MICRO_BATCH):
            whole = torch.cat([part, part[-1:].expand(MICRO_BATCH - len(part), -1, -1, -1)])        # (M, 3, H, W)
            found = self.network(self.prepare(whole.to(self.device)))[: len(part)].float()          # (b, D)
            rows.append((F.normalize(found, dim=1) if self.unit else found).cpu())
        return torch.cat(rows)


def require_tensors(path: Path, network: nn.Module, found: Mapping[str, Tensor]) -> None:
    """`require_match` for weights that others published, where the counters of batch norms may be missing: they change no feature."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    require_match(path, expected, found)


def load_ink(folder: Path, name: str, device: torch.device = CPU) -> NetworkExtractor:
    """The extractor in a model folder made by the recipe `features`. Raises CheckpointError, as `load_part` does, and `arch_mismatch`."""
    network = load_part(folder, PART)
    size, dim = getattr(network.config, "size", None), getattr(network.config, "dim", None)
    if not isinstance(size, int) or not isinstance(dim, int):
        raise CheckpointError("arch_mismatch", f'"{folder / PART}" holds a {type(network).__name__}, not a feature network; '
                                               "give the folder of a run of the recipe features")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(images: Tensor) -> Tensor:
        return (resize(images, size, size) / 127.5 - 1).to(memory_format=torch.channels_last)

    return NetworkExtractor(name, network, prepare, dim, device=device)
