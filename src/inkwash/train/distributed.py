"""Several processes, one run: the same command under torchrun.

`ddp` averages gradients over processes after the backward pass, in one flat message per step; `fsdp` shards parameters, gradients and
optimizer state with FSDP2. Every process takes its rows of the same global batch and the same global draws, so the sum of what they do is
what one process does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

FORWARDS = ("encode", "decode", "embed_text", "embed_image")


class Group:
    """This process among `world`. `alone`, or without torchrun's environment, it is one of one and every method is local."""

    def __init__(self, alone: bool = False) -> None:
        self.world = 1 if alone else int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = 0 if alone else int(os.environ.get("RANK", "0"))
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")
        self.sharded = False
        if self.world > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    def close(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()

    def prepare(self, roles: Mapping[str, nn.Module], parallel: str) -> None:
        """Moves the networks to the device, makes all processes start with the weights of the first, and shards them for `fsdp`.

        A network whose parts are called one by one names them in `units`; FORWARDS are methods that are called beside `forward`.
        """
        for module in roles.values():
            module.to(self.device)
            if self.world > 1:
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)
        if parallel == "fsdp" and self.world > 1:
            mesh = init_device_mesh(self.device.type, (self.world,))
            for module in roles.values():
                for unit in getattr(module, "units", [module]):
                    unit.to(memory_format=torch.contiguous_format)
                    fully_shard(unit, mesh=mesh, reshard_after_forward=True)
                    for name in FORWARDS:
                        if hasattr(unit, name):
                            register_fsdp_forward_method(unit, name)
            self.sharded = True

    def mean(self, value: float) -> float:
        """The mean over processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces gradients by their mean over processes."""
        if self.world == 1 or self.sharded:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> float:
        """Scales the gradients to a norm of at most `limit`; returns the norm before."""
        gradients = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(gradients, math.inf if limit is None else limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def full(self, tensor: Tensor) -> Tensor:
        """The whole tensor on the host; collective for a sharded one."""
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole.detach().cpu()

    def shard_like(self, whole: Tensor, like: Tensor) -> Tensor:
        """The inverse of `full`: placed and laid out in memory as `like` is. Fused optimizers read both as flat memory."""
        if isinstance(like, DTensor):
            return distribute_tensor(whole.to(self.device), like.device_mesh, like.placements)
        return torch.empty_like(like, dtype=whole.dtype).copy_(whole)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def agree(self, signal: int) -> int:
        """The signal that a process got, the same answer in all, so that all stop after the same step; 0 if none did."""
        if self.world == 1:
            return signal
        tensor = torch.tensor(signal, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)
