"""Exponential moving average of weights, in float32, with a half-life counted in samples.

After n samples an old weight counts 2^(-n / half_life), whatever the batch size (Karras et al. 2023, arXiv 2312.02696, section 3 discuss why
the length must not depend on it). At the start the half-life is at most `ramp` x the samples seen, so that the random
initial weights are forgotten at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def decay(num_samples: int, seen: int, half_life: float, ramp: float) -> float:
    """The factor of the old average after a step of `num_samples`, the last of `seen` in all."""
    effective = min(half_life, ramp * seen) if ramp > 0 else half_life
    return 0.5 ** (num_samples / effective) if effective > 0 else 0.0


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers by name, tied parameters once."""
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in module.state_dict()}
    return {**dict(module.named_parameters()), **buffers}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Ema:
    """Averages of the floating parameters of a module; other state is copied."""

    def __init__(self, module: nn.Module, half_life: float, ramp: float = 0.1) -> None:
        self.half_life, self.ramp = half_life, ramp
        self.tensors: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in state_of(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, num_samples: int, seen: int) -> None:
        """One step of `num_samples` samples, the last of `seen`."""
        weight = 1 - decay(num_samples, seen, self.half_life, self.ramp)
        now = state_of(module)
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([_local(self.tensors[name]) for name in floating], [_local(now[name].detach()) for name in floating], weight)
        for name in now.keys() - set(floating):
            self.tensors[name].copy_(now[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside the block `module` has the averaged weights."""
        saved = {name: tensor.detach().clone() for name, tensor in state_of(module).items()}
        load(module, self.tensors)
        try:
            yield
        finally:
            load(module, saved)


@torch.no_grad()
def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies values into the module in place."""
    for name, tensor in state_of(module).items():
        tensor.copy_(tensors[name])
