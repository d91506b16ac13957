"""Inception v3 (Szegedy et al. 2015, arXiv 1512.00567), up to the pooled features that the Frechet distance of the literature is measured in.

Two networks share this name, the names of their tensors and almost all of their structure. "fid" is the one that Heusel et al. 2017
(arXiv 1706.08500) took from a TensorFlow graph of 2015, with 1008 classes: its average pools divide by the pixels that are inside the image
alone, and its last block pools by the maximum. "imagenet" was trained later, with 1000 classes: its average pools count the zeros around the
image as pixels, and its last block averages. The weights of one in the structure of the other give features without an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.config import NetworkConfig, require

DIM, SIZE = 2048, 299
Pool = Literal["inside", "padded", "max"]
Chain = tuple[str | tuple[str, str], ...]           # convolutions one after the other; a pair stands side by side


@dataclass(frozen=True, repr=False)
class InceptionConfig(NetworkConfig):
    """`variant`: "fid" or "imagenet"."""

    variant: str = "fid"

    def __post_init__(self) -> None:
        require(self.variant in ("fid", "imagenet"), f"variant is fid or imagenet, got {self.variant!r}")

    def build(self) -> Inception:
        return Inception(self)


class BasicConv2d(nn.Module):
    """relu(batch_norm(convolution(x))), without bias, epsilon 0.001."""

    def __init__(self, width_in: int, width_out: int, kernel: int | tuple[int, int] = 1, stride: int = 1,
                 padding: int | tuple[int, int] = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Chains of convolutions and a pooled branch, side by side. `convs`: name -> BasicConv2d; `pool` None halves the size by its maximum."""

    def __init__(self, chains: tuple[Chain, ...], convs: dict[str, BasicConv2d], pool: Pool | None) -> None:
        super().__init__()
        self.chains, self.pool = chains, pool
        for name, conv in convs.items():
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for chain in self.chains:
            h = x
            for step in chain:
                h = torch.cat([self.get_submodule(name)(h) for name in step], 1) if isinstance(step, tuple) else self.get_submodule(step)(h)
            parts.append(h)
        pooled = pool(x, self.pool)
        return torch.cat([*parts, pooled if self.pool is None else self.get_submodule("branch_pool")(pooled)], 1)


def pool(x: Tensor, kind: Pool | None) -> Tensor:
    """3 x 3: the mean of the pixels "inside" the image, of these and the zeros "padded" around it, the "max"; None the max with stride 2."""
    if kind is None:
        return F.max_pool2d(x, 3, 2)
    return F.max_pool2d(x, 3, 1, 1) if kind == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=kind == "padded")


def block_a(width: int, pooled: int, kind: Pool) -> Mixed:
    """35 x 35 -> 35 x 35."""
    conv = BasicConv2d
    return Mixed((("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")), {
        "branch1x1": conv(width, 64), "branch5x5_1": conv(width, 48), "branch5x5_2": conv(48, 64, 5, padding=2),
        "branch3x3dbl_1": conv(width, 64), "branch3x3dbl_2": conv(64, 96, 3, padding=1), "branch3x3dbl_3": conv(96, 96, 3, padding=1),
        "branch_pool": conv(width, pooled)}, kind)


def block_b(width: int) -> Mixed:
    """35 x 35 -> 17 x 17."""
    conv = BasicConv2d
    return Mixed((("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")), {
        "branch3x3": conv(width, 384, 3, 2), "branch3x3dbl_1": conv(width, 64), "branch3x3dbl_2": conv(64, 96, 3, padding=1),
        "branch3x3dbl_3": conv(96, 96, 3, 2)}, None)


def block_c(width: int, inner: int, kind: Pool) -> Mixed:
    """17 x 17 -> 17 x 17, by 1 x 7 and 7 x 1 convolutions."""
    conv, wide, tall = BasicConv2d, ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    double = tuple(f"branch7x7dbl_{i}" for i in range(1, 6))
    return Mixed((("branch1x1",), ("branch7x7_1", "branch7x7_2", "branch7x7_3"), double), {
        "branch1x1": conv(width, 192),
        "branch7x7_1": conv(width, inner), "branch7x7_2": conv(inner, inner, *wide), "branch7x7_3": conv(inner, 192, *tall),
        "branch7x7dbl_1": conv(width, inner), "branch7x7dbl_2": conv(inner, inner, *tall), "branch7x7dbl_3": conv(inner, inner, *wide),
        "branch7x7dbl_4": conv(inner, inner, *tall), "branch7x7dbl_5": conv(inner, 192, *wide),
        "branch_pool": conv(width, 192)}, kind)


def block_d(width: int) -> Mixed:
    """17 x 17 -> 8 x 8."""
    conv = BasicConv2d
    return Mixed((("branch3x3_1", "branch3x3_2"), ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4")), {
        "branch3x3_1": conv(width, 192), "branch3x3_2": conv(192, 320, 3, 2),
        "branch7x7x3_1": conv(width, 192), "branch7x7x3_2": conv(192, 192, (1, 7), padding=(0, 3)),
        "branch7x7x3_3": conv(192, 192, (7, 1), padding=(3, 0)), "branch7x7x3_4": conv(192, 192, 3, 2)}, None)


def block_e(width: int, kind: Pool) -> Mixed:
    """8 x 8 -> 8 x 8, each branch ending in a 1 x 3 and a 3 x 1 convolution side by side."""
    conv, wide, tall = BasicConv2d, ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    return Mixed((("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
                  ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))), {
        "branch1x1": conv(width, 320),
        "branch3x3_1": conv(width, 384), "branch3x3_2a": conv(384, 384, *wide), "branch3x3_2b": conv(384, 384, *tall),
        "branch3x3dbl_1": conv(width, 448), "branch3x3dbl_2": conv(448, 384, 3, padding=1),
        "branch3x3dbl_3a": conv(384, 384, *wide), "branch3x3dbl_3b": conv(384, 384, *tall),
        "branch_pool": conv(width, 192)}, kind)


class Inception(nn.Module):
    """(B, 3, 299, 299) in [-1, 1] -> pooled features (B, 2048). Any size of at least 75 pixels works; published numbers are of 299."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.config = config
        fid = config.variant == "fid"
        kind: Pool = "inside" if fid else "padded"
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = block_a(192, 32, kind)
        self.Mixed_5c = block_a(256, 64, kind)
        self.Mixed_5d = block_a(288, 64, kind)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b = block_c(768, 128, kind)
        self.Mixed_6c = block_c(768, 160, kind)
        self.Mixed_6d = block_c(768, 160, kind)
        self.Mixed_6e = block_c(768, 192, kind)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b = block_e(1280, kind)
        self.Mixed_7c = block_e(2048, "max" if fid else kind)

    def forward(self, image: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image)))           # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))               # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, 2)                                                       # (B, 192, 35, 35)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean(dim=(2, 3))                                                       # (B, 2048)
