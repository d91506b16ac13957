"""A small example of every family of kernels against torch, before the library is trusted with anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from inkwash.nn.native import attention, differences, groups, inference, pixel_norm, pointwise, weights
from inkwash.nn.native.layout import BF16, nhwc

TOLERANCE = 0.01


def wrong() -> str:
    """The first kernel that computes something else than torch in float32, with the relative error; empty when all are right."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for name, example in EXAMPLES.items():
            found, wanted = example()
            error = float((found.float() - wanted).norm() / wanted.norm())
            if not error < TOLERANCE:                                                   # nan is wrong too
                return f"{name} has a relative error of {error:.3g}"
    return ""


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def _image(seed: int = 0) -> Tensor:
    return nhwc(_random(2, 48, 4, 8, seed=seed))


def _pixel_norm() -> tuple[Tensor, Tensor]:
    x = _image()
    return pixel_norm.norm(x, None, True), F.silu(F.layer_norm(x.float().permute(0, 2, 3, 1), (48,), eps=pixel_norm.EPS)).permute(0, 3, 1, 2)


def _group_norm() -> tuple[Tensor, Tensor]:
    x, affine = _image(), groups.Affine(torch.linspace(0.5, 1, 48), torch.linspace(-1, 1, 48), 6, 1e-5)
    return groups.norm(x, None, affine, False), F.group_norm(x.float(), 6, affine.gain, affine.bias, 1e-5)


def _weights() -> tuple[Tensor, Tensor]:
    x, dy = _image(), _image(1)
    return weights.weight_grad(x, dy, 3), conv2d_weight(x.float(), [48, 48, 3, 3], dy.float(), padding=1)


def _attention() -> tuple[Tensor, Tensor]:
    q, kv = _random(2, 20, 48), _random(2, 9, 96, seed=1)
    return attention.forward(q, kv, None, 3), _defined(q, *kv.chunk(2, dim=-1))


def _long_attention() -> tuple[Tensor, Tensor]:
    q, k, v = _random(2, 300, 144).chunk(3, dim=-1)
    return inference.attention(q, k, v, 3), _defined(q, k, v)


def _defined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, b, c = (item.float().unflatten(-1, (3, -1)).transpose(1, 2) for item in (q, k, v))
    return ((a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5).softmax(-1) @ c).transpose(1, 2).flatten(2)


def _gate() -> tuple[Tensor, Tensor]:
    x = _random(5, 96)
    value, gate = x.float().chunk(2, dim=-1)
    return inference.geglu(x), value * F.gelu(gate)


def _silu() -> tuple[Tensor, Tensor]:
    x = _image()
    return pointwise.silu(x), F.silu(x.float())


def _shuffle() -> tuple[Tensor, Tensor]:
    x = nhwc(_random(2, 64, 3, 5))
    return pointwise.shuffle(x), F.pixel_shuffle(x.float(), 2)


def _edges() -> tuple[Tensor, Tensor]:
    e = _random(2, 3, 5, 7).float()
    right, down = e[..., :, 1:] - e[..., :, :-1], e[..., 1:, :] - e[..., :-1, :]
    inner = right[..., 1:-1, 1:] - right[..., 1:-1, :-1] + down[..., 1:, 1:-1] - down[..., :-1, 1:-1]
    return differences.edges(e), sum((part.abs().flatten(1).mean(1) for part in (right, down, inner)), torch.zeros(2))


EXAMPLES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "the norm of pixels": _pixel_norm, "group norm": _group_norm, "the gradient of weights": _weights, "attention": _attention,
    "long attention": _long_attention, "the gated GELU": _gate, "SiLU": _silu, "the shuffling of pixels": _shuffle, "edges": _edges,
}
