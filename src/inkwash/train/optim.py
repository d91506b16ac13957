"""Optimizers and learning-rate schedules.

AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) for everything, or Muon (Jordan et al. 2024) for hidden matrices, whose updates are
orthogonalised, and AdamW for the rest: convolutions, embeddings, biases, gains and everything that is not 2-D.
The learning rate is a function of the step alone, so there is no scheduler state to save.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from inkwash.train.config import OptimizerConfig


def lr_factor(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a part of the full one."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        progress = min(1.0, max(0.0, (step - config.warmup) / max(1, num_steps - config.warmup)))
        return rise * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if config.schedule == "wsd" and config.cooldown:
        left = min(1.0, (num_steps - step) / config.cooldown)
        return rise * (config.final + (1 - config.final) * left)
    return rise


def split(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """(hidden matrices, the rest): trainable parameters by name."""
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    hidden: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 2 and min(parameter.shape) > 1 and id(parameter) not in embeddings
            (hidden if matrix else rest)[name] = parameter
    return hidden, rest


def by_scale(named: Mapping[str, nn.Parameter], scales: Mapping[str, float]) -> list[tuple[float, dict[str, nn.Parameter]]]:
    """The parameters in groups of one scale: of the first pattern that is found in their names, 1 without one."""
    groups: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        scale = next((scale for pattern, scale in scales.items() if re.search(pattern, name)), 1.0)
        groups.setdefault(scale, {})[name] = parameter
    return list(groups.items())


class Optimizers:
    """The optimizers of one role; their state is addressed by parameter name."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        hidden, rest = split(module)
        if config.kind == "adamw":
            hidden, rest = {}, {**hidden, **rest}
        self.parts: list[tuple[dict[str, nn.Parameter], Optimizer, float]] = []
        for scale, named in by_scale(rest, config.scale):
            adam = torch.optim.AdamW(named.values(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True)
            self.parts.append((named, adam, scale * config.lr))
        for scale, named in by_scale(hidden, config.scale):
            muon = torch.optim.Muon(named.values(), lr=config.muon_lr, weight_decay=config.weight_decay)
            self.parts.append((named, muon, scale * config.muon_lr))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for named, _, _ in self.parts for parameter in named.values()]

    def step(self, factor: float) -> None:
        """One update with `factor` x the learning rates; gradients are freed."""
        for _, optimizer, lr in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
        self.zero()

    def zero(self) -> None:
        for _, optimizer, _ in self.parts:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """"parameter/key" -> tensor."""
        found: dict[str, Tensor] = {}
        for named, optimizer, _ in self.parts:
            for name, parameter in named.items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    found[f"{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return found

    def load(self, tensors: Mapping[str, Tensor], like: Callable[[Tensor, Tensor], Tensor]) -> None:
        """The inverse of `state`; `like(tensor, parameter)` lays a tensor out as the parameter is."""
        for named, optimizer, _ in self.parts:
            for name, parameter in named.items():
                keys = [full for full in tensors if full.startswith(f"{name}/")]
                if keys:
                    optimizer.state[parameter] = {full.rsplit("/", 1)[1]: like(tensors[full], parameter) if tensors[full].shape == parameter.shape
                                                  else tensors[full].clone() for full in keys}
