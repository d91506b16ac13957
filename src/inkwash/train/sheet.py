"""Pictures of a run: images side by side in one PNG."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inkwash.io.durable import write_bytes


def sheet(images: Tensor, columns: int) -> Image.Image:
    """Images (N, 3, H, W), float in [-1, 1] or uint8, in rows of `columns` with 2 white pixels between."""
    if images.dtype != torch.uint8:
        images = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    count, _, height, width = images.shape
    rows = -(-count // columns)
    canvas = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, image in enumerate(images):
        tile = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        canvas.paste(tile, (i % columns * (width + 2), i // columns * (height + 2)))
    return canvas


def save_sheet(path: Path, images: Tensor, columns: int) -> None:
    """Writes `sheet` as PNG."""
    data = io.BytesIO()
    sheet(images, columns).save(data, "PNG", compress_level=1)
    write_bytes(path, data.getvalue())
