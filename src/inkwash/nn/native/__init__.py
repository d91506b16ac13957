"""Kernels in C for processors with AMX and AVX-512, compiled by the machine's own compiler on first use.

Two things keep torch's own operators from the speed of the machine when a small network is trained in bfloat16: chains of elementwise
operators, each of which walks memory again, and gradients of weights, whose matrix products have both sides transposed. `ready` says
whether the functions of this module may take the place of torch's operators: in training on the CPU under bfloat16 autocast, where the
library works. Otherwise torch alone computes, and `status` says why. The kernels of inference stand apart, in `inference`, since they are
asked for by name.

A library that computes something else than torch on a small example is not used. Sums have a fixed order: results depend neither on the
number of threads nor on the other samples of a batch.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from inkwash.errors import InkwashWarning
from inkwash.nn.native import build, check
from inkwash.nn.native.attention import attend
from inkwash.nn.native.blocks import block, enlarge, local, silu_norm
from inkwash.nn.native.differences import edges
from inkwash.nn.native.group_blocks import conv, group_block, group_norm
from inkwash.nn.native.spatial import read

__all__ = ["attend", "block", "conv", "edges", "enlarge", "group_block", "group_norm", "local", "read", "ready", "silu_norm", "status", "usable"]


@functools.cache
def _state() -> tuple[bool, str]:
    """Whether the library can be used, and a line on why or why not. Warns once when something broke."""
    try:
        built = build.load()
        if wrong := check.wrong():
            raise build.Unavailable(f"they failed their self-check: {wrong}")
    except build.Unavailable as error:
        if not error.expected:
            warnings.warn(f"the native kernels are not used, training is slower: {error}", InkwashWarning, stacklevel=2)
        return False, f"not used: {error}"
    return True, f"used for training on the CPU in bfloat16, {built.text}"


def usable() -> bool:
    """Whether the kernels work here; compiles them when this is asked first."""
    return _state()[0]


def status() -> str:
    """One line: whether the kernels are used, and why not; compiles them when this is asked first."""
    return _state()[1]


def ready(x: Tensor) -> bool:
    """Whether the kernels take a step of training with x: a gradient is wanted on the CPU under bfloat16 autocast, outside torch.compile."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    return usable()
