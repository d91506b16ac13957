"""Numbers that show in which order a matrix product is summed.

bfloat16 rounds away nearly all of what another order of a sum changes: one value in ten thousand differs, so a trial on ordinary numbers takes
a kernel for exact that is not. Which kernel a library picks depends on shapes, dtype and threads, never on the numbers. So each product that a
network makes is made again on numbers that leave an order nowhere to hide: half of the terms of every sum are large, c and -c in pairs that
cancel exactly, and the order shows in a third of the values.

Only linear layers and convolutions are seen; what else a network does is tried by its own answers alone (selftest.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d)
LARGE = 2.0**14
T = TypeVar("T")


class Product(NamedTuple):
    """A layer as it was called: with weights of its shape, and inputs (N, ...) of the shape, dtype and memory format that it was given."""

    layer: nn.Module
    x: Tensor

    def rows(self, of: int, size: int) -> Tensor:
        """The answers for inputs that are `of` samples, in calls of `size` samples."""
        each = len(self.x) // of
        return torch.cat([self.layer(self.x[start * each:(start + size) * each]) for start in range(0, of, size)])


@torch.no_grad()
def products(networks: Iterable[nn.Module], run: Callable[[], T]) -> tuple[T, list[Product]]:
    """What `run` gives, and the products, each kind once, that `networks` make in it."""
    seen: dict[tuple[object, ...], tuple[nn.Module, torch.Size, torch.dtype, bool]] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, last = inputs[0], inputs[0].dim() == 4 and inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen[type(layer), layer.extra_repr(), x.shape, x.dtype, last] = layer, x.shape, x.dtype, last

    hooks = [layer.register_forward_pre_hook(see) for network in networks for layer in network.modules() if isinstance(layer, LAYERS)]
    try:
        given = run()
    finally:
        for hook in hooks:
            hook.remove()
    return given, [_awkward(*call) for call in seen.values()]


def _awkward(layer: nn.Module, shape: torch.Size, dtype: torch.dtype, channels_last: bool) -> Product:
    made, axis = copy.deepcopy(layer), 1 if isinstance(layer, nn.Conv2d) else len(shape) - 1
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(made.weight.shape, generator=noise)  # type: ignore[arg-type, call-overload]
    x = torch.randn(shape, generator=noise).movedim(axis, 0)
    if weight.shape[1] == len(x):                          # not a grouped convolution: every sum goes over all channels
        order, pairs = torch.randperm(len(x), generator=noise), len(x) // 4
        one, other = order[:pairs], order[pairs:2 * pairs]
        weight[:, other] = weight[:, one]
        x[one] *= LARGE
        x[other] = -x[one]
    made.weight.copy_(weight)  # type: ignore[operator, union-attr]
    x = x.movedim(0, axis).to(next(made.parameters()).device, dtype)
    return Product(made, x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format))
