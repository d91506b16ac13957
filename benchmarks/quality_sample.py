"""Samples of every contestant by one sampler: each network is wrapped as a Denoiser with the schedule that it was trained on.

The network of diffusers is sampled in our fast form of it, which has the same weights and other roundings. All see the same numbers of pictures and
steps, the same start noise by number, and an x0 that is clamped to -1..1, as both peers' own samplers do. Pictures are kept in parts, so that a stop
loses little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import peers
import torch
from quality_peers import RECIPES, STEPS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.coordinate import TimeIndex
from inkwash.core.level import Level
from inkwash.core.prediction import Eps, Prediction, V
from inkwash.core.schedule import Linear, Schedule, Tabulated
from inkwash.core.spacing import Trailing
from inkwash.denoiser import Denoiser
from inkwash.nn import UNet2DConfig
from inkwash.nn.unet2d_fast import FastUNet2D
from inkwash.pipeline import Pipeline
from inkwash.sample import Program, Sampler, prior, run
from inkwash.train.memory import keep
from inkwash.value import parse

PART, BATCH = 100, 50
SHAPE = (3, 32, 32)


class Theirs(nn.Module):
    """A peer's network with the arguments and the answer of one of ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.network(x, noise)  # type: ignore[no-any-return]


def denoiser(name: str, weights: Path) -> tuple[Denoiser, Schedule]:
    """The contestant with `weights`: a model folder of ours, or the file of a peer."""
    if name == "inkwash":
        pipe = Pipeline.from_pretrained(weights)
        return pipe.denoiser, pipe.schedule
    network: nn.Module
    name = name.partition(".")[0]
    if name == "diffusers":
        same = parse(peers.CIFAR10, UNet2DConfig).build()
        same.load_state_dict(load_file(weights))
        network, schedule, prediction = FastUNet2D(same), Linear(), Eps()
    else:
        network = RECIPES[name]().network
        network.load_state_dict(load_file(weights))
        network, (schedule, prediction) = Theirs(network.to(memory_format=torch.channels_last)), sigmoid()  # type: ignore[call-overload]
    return Denoiser(network.eval(), prediction, coordinate=TimeIndex(schedule, STEPS, -1.0)), schedule


def sigmoid() -> tuple[Schedule, Prediction]:
    """What lucidrains' README trains: its own table of betas."""
    betas = peers.lucidrains().sigmoid_beta_schedule(STEPS)
    return Tabulated(tuple(betas.clamp(1e-12, 0.999).tolist())), V()


class Way(NamedTuple):
    """How pictures are made: a sampler, in a number of steps."""

    sampler: str = "dpmpp_2m_sde"
    steps: int = 20


def pictures(name: str, weights: Path, way: Way, count: int, folder: Path) -> Tensor:
    """uint8 (count, 3, 32, 32): picture j starts from the noise of number j. Parts that are there already are not made again."""
    keep()
    model: tuple[Denoiser, Schedule] | None = None
    parts = []
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, PART):
        path = folder / f"{first}-{min(first + PART, count)}.safetensors"
        if not path.exists():
            model = model or denoiser(name, weights)
            beside = path.with_suffix(".part")
            numbers = range(first, min(first + PART, count))
            save_file({"pictures": torch.cat([part(*model, way, numbers[i:i + BATCH]) for i in range(0, len(numbers), BATCH)])}, beside)
            beside.replace(path)
        parts.append(load_file(path)["pictures"])
    return torch.cat(parts)


@torch.no_grad()
def part(model: Denoiser, schedule: Schedule, way: Way, numbers: range) -> Tensor:
    """uint8 (n, 3, 32, 32)."""
    plan = parse(way.sampler, Sampler).plan(Trailing().levels(schedule, way.steps))  # type: ignore[type-abstract]
    programs = [Program(plan, 0, number, prior(plan, SHAPE, 0, number)) for number in numbers]

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x.to(memory_format=torch.channels_last), level, Cond.none(len(x)))
        return found.float().clamp(-1, 1)

    x = torch.stack([result.clean.x for result in run(denoise, programs)])
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
