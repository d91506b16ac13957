"""Small changes of pictures that leave them what they are: two views of one picture should have near features (Chen et al. 2020, arXiv 2002.05709).

A view is cropped, shifted, turned a little and slightly recoloured, and some are blurred, made noisy or quantised like a JPEG. The changes are
milder than is usual where only the class counts, since the features must go on telling colours, glyphs and damage apart. Mirroring and a
coarser resolution are drawn once per picture and shared by its views: the network sees such pictures but does not learn to ignore the
difference. Every number comes from a `Draw`, so a view is a function of (seed, step, position).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.train.task import Draw

ZOOM = (0.70, 1.08)         # side of the part that is seen, in sides of the picture
TURN = math.radians(8)
GAIN, CONTRAST, SHIFT = 0.06, 0.15, 0.05
BLUR, NOISE, STEP = 0.9, 0.05, 0.12  # largest standard deviation in pixels of 128, of noise, and quantisation step, in units of 0..1
SHARE = {"blur": 0.3, "noise": 0.3, "jpeg": 0.25}
COARSE, COARSE_BLUR = 0.2, 2.2


def shared(images: Tensor, draw: Draw) -> Tensor:
    """uint8 (B, 3, S, S) -> float32 in 0..1: half of them mirrored, `COARSE` of them as if enlarged from fewer pixels."""
    values = images.float() / 255
    mirrored = draw.uniform((), "mirror") < 0.5
    values = torch.where(mirrored[:, None, None, None].to(values.device), values.flip(-1), values)
    chance, amount = draw.uniform((2,), "coarse").unbind(1)
    return _blurred(values, torch.where(chance < COARSE, 0.6 + (COARSE_BLUR - 0.6) * amount, 0.0))


def view(values: Tensor, draw: Draw, name: str) -> Tensor:
    """One view of float32 (B, 3, S, S) in 0..1; `name` tells the views of one picture apart."""
    device, size = values.device, values.shape[-1]
    zoom, turn, x, y = draw.uniform((4,), f"{name} place").float().unbind(1)            # (B,) each
    side, angle = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * zoom, TURN * (2 * turn - 1)
    room = (1 - side).abs()
    theta = torch.stack([torch.stack([side * angle.cos(), -side * angle.sin(), room * (2 * x - 1)], 1),
                         torch.stack([side * angle.sin(), side * angle.cos(), room * (2 * y - 1)], 1)], 1)  # (B, 2, 3)
    grid = F.affine_grid(theta.to(device), list(values.shape), align_corners=False)
    values = F.grid_sample(values, grid, padding_mode="border", align_corners=False)
    colour = draw.uniform((5,), f"{name} colour").float().to(device)[..., None, None] * 2 - 1           # (B, 5, 1, 1)
    mean = values.mean((1, 2, 3), keepdim=True)
    values = (values - mean) * (1 + CONTRAST * colour[:, :1]) + mean + SHIFT * colour[:, 1:2]
    values = values * (1 + GAIN * colour[:, 2:])
    chosen, amount = (draw.uniform((3,), f"{name} {what}") for what in ("chosen", "amount"))            # (B, 3) each
    amount = torch.where(chosen < torch.tensor(list(SHARE.values())), amount, 0.0)
    values = _blurred(values, BLUR * size / 128 * amount[:, 0])
    strength = NOISE * amount[:, 1].float().to(device)[:, None, None, None]
    values = values + strength * draw.normal((3, size, size), f"{name} noise").to(device)
    return _quantised(values, STEP * amount[:, 2]).clamp(0, 1)


def _blurred(values: Tensor, sigma: Tensor) -> Tensor:
    """Each image with a Gaussian of its own standard deviation in pixels; 0 leaves it."""
    rows = (sigma > 0.2).nonzero()[:, 0].to(values.device)
    if not len(rows):
        return values
    reach = 6
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (steps / sigma[rows.cpu(), None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).float().to(values.device).repeat_interleave(3, 0)[:, None]   # (3b, 1, K)
    part = values[rows].reshape(1, -1, *values.shape[2:])
    part = F.conv2d(F.pad(part, (reach, reach, reach, reach), mode="replicate"), kernel[:, :, :, None], groups=len(kernel))
    part = F.conv2d(part, kernel[:, :, None, :], groups=len(kernel))
    return values.index_copy(0, rows, part.reshape(len(rows), *values.shape[1:]))


def _quantised(values: Tensor, step: Tensor) -> Tensor:
    """Cosine coefficients of 8 x 8 blocks rounded to multiples of a step that grows with frequency: what a JPEG does. 0 leaves an image."""
    rows = (step > 0).nonzero()[:, 0].to(values.device)
    if not len(rows) or values.shape[-1] % 8:
        return values
    at = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * at[None] + 1) * at[:, None] / 16) * math.sqrt(2 / 8)
    basis[0] /= math.sqrt(2)
    basis = basis.float().to(values.device)                                             # (8, 8), orthogonal
    width = (step[rows.cpu(), None, None] * (1 + 0.5 * (at[:, None] + at[None]))).float().to(values.device)[:, None, None, :, None, :]
    count, size = len(rows), values.shape[-1]
    blocks = values[rows].reshape(count, 3, size // 8, 8, size // 8, 8)
    spectrum = torch.einsum("ki,bcxiyj,lj->bcxkyl", basis, blocks, basis)
    spectrum = (spectrum / width).round() * width
    blocks = torch.einsum("ki,bcxkyl,lj->bcxiyj", basis, spectrum, basis)
    return values.index_copy(0, rows, blocks.reshape(count, 3, size, size))
