"""The layout that the kernels read: bfloat16, channels innermost."""

from __future__ import annotations

import torch
from torch import Tensor

BF16 = torch.bfloat16


def nhwc(x: Tensor) -> Tensor:
    """x (B, C, H, W) in bfloat16, laid out with the channels innermost."""
    return x.to(BF16).contiguous(memory_format=torch.channels_last)


def require_nhwc(x: Tensor) -> torch.Size:
    """The shape of x (B, C, H, W), which must come from `nhwc`: anything else is a bug of the caller."""
    assert x.dtype == BF16, x.dtype
    assert x.is_contiguous(memory_format=torch.channels_last), x.stride()
    return x.shape


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W), channels innermost, as (B H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def image_of(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `rows_of`, for an image with the height and width of `like`."""
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)
