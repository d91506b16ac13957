"""How much the neighbouring pixels of an error image differ, with its gradient, in one pass.

    y = mean |e[i, j + 1] - e[i, j]| + mean |e[i + 1, j] - e[i, j]| + mean |Laplacian of e at inner pixels|

Written with torch's operators this is a dozen walks over memory, and two dozen in the backward pass. Everything is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inkwash.nn.native.build import Function

_edges = Function("edges", "PPPLLL")


class Edges(torch.autograd.Function):
    """y (B,) of e (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, e: Tensor) -> Tensor:
        batch, channels, height, width = e.shape
        assert e.dtype == torch.float32
        assert min(height, width) >= 3
        e, sums = e.contiguous(), torch.empty(batch, channels)
        grad = torch.empty_like(e)
        _edges(e, grad, sums, batch * channels, height, width)
        ctx.save_for_backward(grad)
        return sums.mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = ctx.saved_tensors
        return grad * (grads[0] / grad.shape[1])[:, None, None, None]


def edges(e: Tensor) -> Tensor:
    """y (B,) of an error e (B, C, H, W) with at least 3 x 3 pixels."""
    return Edges.apply(e.float())  # type: ignore[no-any-return,no-untyped-call]
