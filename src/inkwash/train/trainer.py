"""The state of a run and one step of it.

Everything in a step is a function of the weights and of its number: data, noise and levels are positional, torch's own generator is set anew for
each step. So a run that is killed and goes on from a checkpoint ends with the bits of one that was not. A step whose loss or gradient is
not finite changes nothing but the number; where a task steps several roles in turn, this holds from the role on whose loss it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.train import checkpoint, memory
from inkwash.train.checkpoint import Snapshot
from inkwash.train.config import RunConfig
from inkwash.train.distributed import Group
from inkwash.train.ema import Ema, load, state_of
from inkwash.train.optim import Optimizers, lr_factor
from inkwash.train.task import Draw, Task


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: "auto" does where the processor or GPU is built for it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class Bad(NamedTuple):
    """What a step without a finite loss was: its number, its samples, the role, the loss and the norm of its gradient."""

    step: int
    keys: list[str]
    role: str
    loss: float
    norm: float


class Trainer:
    """The state of a run: weights in the task, averages, optimizers, and the number of finished steps."""

    def __init__(self, task: Task, config: RunConfig, group: Group) -> None:
        self.task, self.config, self.group = task, config, group
        self.step, self.bad_steps = 0, 0
        self.bad = Bad(0, [], "", 0.0, 0.0)
        self.bf16 = use_bf16(config.precision)
        if group.device.type == "cpu":
            memory.keep()
        group.prepare(task.roles, config.parallel)
        self.optimizers = {role: Optimizers(module, config.optimizer) for role, module in task.roles.items()}
        self.emas = {role: Ema(module, config.ema_half_life, config.ema_ramp) for role, module in task.roles.items()}

    def run_step(self) -> dict[str, float]:
        """Step number `self.step`. Returns its mean logs; `skipped` 1.0 when it was not finite.

        "loss" and "grad_norm" are those of the role that is stepped first, others have their role's name behind.
        """
        config, task, group = self.config, self.task, self.group
        torch.manual_seed(Draw(config.seed, self.step, 1).number("torch"))
        logs: dict[str, float] = {}
        keys: list[str] = []
        leading = ""
        for role, losses in self.rounds(keys):
            leading = leading or role
            total, told = 0.0, dict[str, float]()
            for loss in losses:
                mean = loss.value.mean() / config.accumulate
                mean.backward()  # type: ignore[no-untyped-call]
                total += float(mean.detach())
                for name, value in loss.logs.items():
                    told[name] = told.get(name, 0.0) + float(value.detach().float().mean()) / config.accumulate
            optimizer = self.optimizers[role]
            total = group.mean(total)
            group.average_gradients(optimizer.parameters)
            norm = group.clip(optimizer.parameters, config.optimizer.clip)
            if not math.isfinite(total) or not math.isfinite(norm):
                for other in self.optimizers.values():
                    other.zero()
                return self._skip(keys, role, total, norm)
            optimizer.step(lr_factor(config.optimizer, self.step, config.steps))
            behind = "" if role == leading else f"_{role}"
            logs |= {**{name: group.mean(value) for name, value in told.items()}, f"loss{behind}": total, f"grad_norm{behind}": norm}
        self.bad_steps = 0
        self.step += 1
        for role, module in task.roles.items():
            self.emas[role].update(module, config.batch, self.step * config.batch)
        return logs

    def rounds(self, keys: list[str]) -> Iterator[tuple[str, Iterator[Any]]]:
        """For every loss that the task yields: its role, and the losses of all micro-batches."""
        config, group = self.config, self.group
        micro = config.batch // config.accumulate
        share = micro // group.world
        running = []
        for k in range(config.accumulate):
            batch = self.task.batch(self.step * config.accumulate + k)
            keys += self.task.keys(batch)
            draw = Draw(config.seed, self.step, config.batch, k * micro + group.rank * share, share)
            running.append(self.task.losses(batch, draw))
        while True:
            with self.precision():
                first = next(running[0], None)
            if first is None:
                return
            yield first.role, self._round(first, running[1:])

    def _round(self, first: Any, others: list[Iterator[Any]]) -> Iterator[Any]:
        yield first
        for other in others:
            with self.precision():
                loss = next(other)
            yield loss

    def precision(self) -> Any:
        """The context in which networks compute."""
        return torch.autocast(self.group.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _skip(self, keys: list[str], role: str, loss: float, norm: float) -> dict[str, float]:
        self.bad_steps += 1
        self.bad = Bad(self.step, keys, role, loss, norm)
        self.step += 1
        return {"skipped": 1.0}

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on. Collective under FSDP."""
        full = self.group.full
        weights, averages, state = {}, {}, {}
        for role, module in self.task.roles.items():
            weights.update({f"{role}/{name}": full(tensor) for name, tensor in state_of(module).items()})
            averages.update({f"{role}/{name}": full(tensor) for name, tensor in self.emas[role].tensors.items()})
            state.update({f"{role}/{name}": full(tensor) for name, tensor in self.optimizers[role].state().items()})
        info = {"config": self.config.model_dump(mode="json"), "data": self.task.fingerprint, "bad_steps": self.bad_steps}
        return Snapshot(self.step, {"weights": weights, "ema": averages, "optimizer": state}, info)

    def restore(self, snapshot: Snapshot, name: str) -> None:
        """The inverse of `snapshot`. Raises CheckpointError `arch_mismatch`."""
        mine = {f"{role}/{key}": tensor for role, module in self.task.roles.items() for key, tensor in state_of(module).items()}
        checkpoint.require_fit(name, snapshot.tensors["weights"], mine)
        checkpoint.require_fit(name, snapshot.tensors["ema"], mine)
        like = self.group.shard_like
        for role, module in self.task.roles.items():
            def part(group: str, role: str = role) -> dict[str, Tensor]:
                return {key.removeprefix(f"{role}/"): tensor for key, tensor in snapshot.tensors[group].items() if key.startswith(f"{role}/")}

            now = state_of(module)
            load(module, {key: like(tensor, now[key]) for key, tensor in part("weights").items()})
            ema = self.emas[role].tensors
            for key, tensor in part("ema").items():
                ema[key].copy_(like(tensor, ema[key]))
            self.optimizers[role].load(part("optimizer"), like)
        self.step, self.bad_steps = snapshot.step, snapshot.state["bad_steps"]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the task's networks have the averaged weights and are in eval mode, without gradients."""
        with torch.no_grad():
            managers = [self.emas[role].applied(module) for role, module in self.task.roles.items()] if self.config.ema_half_life else []
            for manager in managers:
                manager.__enter__()
            modes = {role: module.training for role, module in self.task.roles.items()}
            try:
                for module in self.task.roles.values():
                    module.eval()
                yield
            finally:
                for role, module in self.task.roles.items():
                    module.train(modes[role])
                for manager in reversed(managers):
                    manager.__exit__(None, None, None)


def replay(trainer: Trainer) -> list[tuple[str, float]]:
    """The losses of this process's samples at the present step, by key; nothing is changed."""
    torch.manual_seed(Draw(trainer.config.seed, trainer.step, 1).number("torch"))
    keys: list[str] = []
    values: list[float] = []
    with torch.no_grad():
        for _, losses in trainer.rounds(keys):
            values += [float(value) for loss in losses for value in loss.value]
    return list(zip(keys, values))
