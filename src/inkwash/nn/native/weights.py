"""Gradients of weights and biases, float32, from bfloat16 images; and a convolution that adds.

    dW[o, i, a, b] = sum over samples and pixels p of dy[o, p] x[i, p + (a, b) - centre]

Both sides of this product are transposed in memory, which torch's operators pay for; here tiles of transposed pixels are made once for all
taps of the kernel. Sums have a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inkwash.nn.native.build import Function
from inkwash.nn.native.layout import BF16, require_nhwc, rows_of

_colsum, _wgrad = Function("colsum", "PPLLL"), Function("wgrad", "PPPLLLLLLLL")


def conv_add(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """A 3 x 3 convolution that keeps height and width, plus `other`, which is added before the sum is rounded; weight in bfloat16."""
    sides = [1, 1]
    out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(x, other, weight, bias.to(BF16), sides, sides, sides, 1, "add", 1.0, None, [], None)
    return out


def conv_back(dy: Tensor, x: Tensor, weight: Tensor, needs_x: bool = True) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients (x, weight, bias) of a convolution of stride 1 that keeps height and width, weights in bfloat16 and their gradients in float32."""
    taps = weight.shape[-1]
    own = fits(x, dy)
    arguments = ([weight.shape[0]], [1, 1], [taps // 2, taps // 2], [1, 1], False, [0, 0], 1)
    dx, dw = None, None
    if needs_x or not own:
        dx, dw, _ = torch.ops.aten.convolution_backward(dy, x, weight, *arguments, [needs_x, not own, False])
    return dx, weight_grad(x, dy, taps) if own else dw.float(), bias_grad(dy)  # type: ignore[union-attr]


def fits(x: Tensor, dy: Tensor) -> bool:
    """Whether `weight_grad` takes these sizes: channels in sixteens, an even width, positions in sixteens."""
    return x.shape[1] % 16 == 0 and dy.shape[1] % 16 == 0 and x.shape[3] % 2 == 0 and x.shape[2] * x.shape[3] % 16 == 0


def weight_grad(x: Tensor, dy: Tensor, taps: int) -> Tensor:
    """Gradient (D, C, taps, taps) float32, channels last, of the weights of a convolution x (B, C, H, W) -> (B, D, H, W); see `fits`."""
    (batch, channels, height, width), outputs = require_nhwc(x), require_nhwc(dy)[1]
    out = torch.empty(outputs, channels, taps, taps, memory_format=torch.channels_last)
    _wgrad(x, dy, out, batch, height, width, channels, outputs, taps, channels, outputs)
    return out


def bias_grad(dy: Tensor) -> Tensor:
    """Sum of dy (B, D, H, W) over all but the channels, float32 (D,)."""
    require_nhwc(dy)
    return column_sum(rows_of(dy))


def linear_grad(x: Tensor, dy: Tensor) -> Tensor:
    """Gradient (D, C) float32 of the weights of a linear map x (P, C) -> (P, D), both contiguous."""
    assert x.is_contiguous()
    assert dy.is_contiguous()
    rows, inputs, outputs = x.shape[0], x.shape[1], dy.shape[1]
    wide = next((wide for wide in (256, 128, 64, 32, 16) if rows % wide == 0), 0)
    if not wide or inputs % 16 or outputs % 16:
        return (dy.t() @ x).float()
    out = torch.empty(outputs, inputs)
    _wgrad(x, dy, out, rows // wide, 1, wide, inputs, outputs, 1, inputs, outputs)
    return out


def column_sum(dy: Tensor) -> Tensor:
    """Sum (D,) float32 of the rows of dy (P, D)."""
    assert dy.is_contiguous()
    rows, columns = dy.shape
    out = torch.empty(columns)
    _colsum(dy, out, rows, columns, columns)
    return out
