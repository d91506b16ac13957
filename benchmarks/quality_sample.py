"""Samples of every contestant by one sampler: each network is wrapped as a Denoiser with the schedule that it was trained on.

All compute in bfloat16: networks of diffusers in our fast form of them where the processor has AMX, else as they are, those of lucidrains as they
are but for the embedding of time, which stays in float32 (half as fast again as under autocast, and as near to float32). All see the same numbers of
pictures and steps, and the same start noise by number; an x0 of pixels is clamped to -1..1, as the peers' own samplers do, and a peer's of latents,
which have unit variance, to -8..8. Pictures are kept in parts, so that a stop loses little.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import peers
import torch
from quality_peers import RECIPES, STEPS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash.codec import Codec, Pixels
from inkwash.condition import Conditioner, NoConditioner
from inkwash.core.coordinate import TimeIndex
from inkwash.core.level import Clean, Level
from inkwash.core.prediction import Eps, V
from inkwash.core.schedule import Linear, Schedule, Tabulated
from inkwash.core.spacing import Trailing
from inkwash.denoiser import Denoiser
from inkwash.guide import CFG, evaluate
from inkwash.nn import UNet2DConfig, native
from inkwash.nn.unet2d_fast import FastUNet2D
from inkwash.pipeline import Pipeline
from inkwash.sample import Program, Sampler, prior, run
from inkwash.train.memory import keep
from inkwash.value import parse

PART, BATCH = 100, 50
LATENTS = 8.0                                              # beyond what the embedded encoder says, not beyond what eps near pure noise makes of it


class Theirs(nn.Module):
    """lucidrains' network in bfloat16, but for the embedding of time, with the arguments and the answer of one of ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        time = copy.deepcopy(network.time_mlp)
        self.network = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.time_mlp = nn.Sequential(time, Rounded())

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.network(x, noise)  # type: ignore[no-any-return]


class Rounded(nn.Module):
    """x in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


class Model(NamedTuple):
    """A contestant ready to sample pictures of `size` x `size` pixels; its x0 is clamped to -limit..limit."""

    denoiser: Denoiser
    schedule: Schedule
    codec: Codec
    conditioner: Conditioner
    size: int
    limit: float


class Way(NamedTuple):
    """How pictures are made: a sampler, in a number of steps, with classifier-free guidance for those that read captions."""

    sampler: str = "dpmpp_2m_sde"
    steps: int = 20
    guidance: float = 1.0


def ours(folder: Path) -> Model:
    """A finished model of ours."""
    pipe = Pipeline.from_pretrained(folder)
    return Model(pipe.denoiser, pipe.schedule, pipe.codec, pipe.conditioner, pipe.info.sizes.default[0],
                 1.0 if isinstance(pipe.codec, Pixels) else math.inf)


def limit(codec: Codec) -> float:
    """Of a peer's x0."""
    return 1.0 if isinstance(codec, Pixels) else LATENTS


def of_diffusers(weights: Path, config: UNet2DConfig, codec: Codec, conditioner: Conditioner, size: int) -> Model:
    """A network of diffusers that was trained as their examples do: eps, on linear betas."""
    same = config.build()
    same.load_state_dict(load_file(weights))
    network = FastUNet2D(same.eval()) if native.usable() else same.eval().to(torch.bfloat16, memory_format=torch.channels_last)
    denoiser = Denoiser(network, Eps(), coordinate=TimeIndex(Linear(), STEPS, -1.0))
    return Model(denoiser, Linear(), codec, conditioner, size, limit(codec))


def of_lucidrains(weights: Path, network: nn.Module, codec: Codec, size: int) -> Model:
    """A network of lucidrains that was trained as the README does: v, on a table of betas of its own."""
    network.load_state_dict(load_file(weights))
    betas = peers.lucidrains().sigmoid_beta_schedule(STEPS)
    schedule = Tabulated(tuple(betas.clamp(1e-12, 0.999).tolist()))
    denoiser = Denoiser(Theirs(network.eval()), V(), coordinate=TimeIndex(schedule, STEPS, -1.0))
    return Model(denoiser, schedule, codec, NoConditioner(), size, limit(codec))


def of_cifar10(name: str, weights: Path) -> Model:
    """A contestant of the benchmark on CIFAR-10: a model folder of ours, or the file of a peer."""
    if name == "inkwash":
        return ours(weights)
    name = name.partition(".")[0]
    if name == "diffusers":
        return of_diffusers(weights, parse(peers.CIFAR10, UNet2DConfig), Pixels(), NoConditioner(), 32)
    return of_lucidrains(weights, RECIPES[name]().network, Pixels(), 32)


def pictures(make: Callable[[], Model], way: Way, captions: Sequence[str], count: int, folder: Path) -> Tensor:
    """uint8 (count, 3, H, W): picture j starts from the noise of number j and has the j-th caption, from the start again when they run out.

    Parts that are there already are not made again, whatever `count` is.
    """
    keep()
    model: Model | None = None
    parts = []
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, PART):
        path = folder / f"{first}-{min(first + PART, count)}.safetensors"
        if not path.exists():
            model = model or make()
            beside = path.with_suffix(".part")
            numbers = range(first, min(first + PART, count))
            save_file({"pictures": torch.cat([part(model, way, captions, numbers[i:i + BATCH]) for i in range(0, len(numbers), BATCH)])}, beside)
            beside.replace(path)
            print(f"{folder.name}: {numbers.stop} of {count} pictures", file=sys.stderr, flush=True)
        parts.append(load_file(path)["pictures"])
    return torch.cat(parts)


@torch.no_grad()
def part(model: Model, way: Way, captions: Sequence[str], numbers: range) -> Tensor:
    """uint8 (n, 3, H, W)."""
    plan = parse(way.sampler, Sampler).plan(Trailing().levels(model.schedule, way.steps))  # type: ignore[type-abstract]
    shape = model.codec.shape(model.size, model.size)
    programs = [Program(plan, 0, number, prior(plan, shape, 0, number)) for number in numbers]
    conds = {"cond": model.conditioner([captions[number % len(captions)] for number in numbers]), "null": model.conditioner.null(len(numbers))}
    guidances = [CFG(scale=way.guidance)] * len(numbers)
    models = {"main": lambda x, level, cond: model.denoiser(x.to(memory_format=torch.channels_last), level, cond)}

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        some = {name: cond.take(index) for name, cond in conds.items()}
        found = evaluate(models, x, level, [guidances[int(i)] for i in index], some)[0].float()
        return found.clamp(-model.limit, model.limit)

    return model.codec.decode(Clean(torch.stack([result.clean.x for result in run(denoise, programs)]))).contiguous()
