"""A GAN, a VAE and a diffusion model of the same pictures, each told what to draw, with the same training compute; part of `families.py`.

The pictures are drawn scenes of one large object at 32 x 32, told by colour and shape. So what is asked for can be checked exactly in what
comes, and the supply of held-out pictures is endless. Compute is counted as in `families_plane.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from families_plane import update
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

from inkwash.cond import Cond
from inkwash.core.level import Level
from inkwash.core.prediction import V
from inkwash.core.schedule import Cosine
from inkwash.core.spacing import Karras
from inkwash.data.scenes.source import draw
from inkwash.data.scenes.wanted import read
from inkwash.denoiser import Denoiser
from inkwash.evaluate.denoisers.likelihood import bits_per_dimension, log_likelihood
from inkwash.evaluate.extractors.features import Extractor, extract
from inkwash.evaluate.judges.scenes import bank, find
from inkwash.evaluate.measure import Views, measure
from inkwash.guide import CFG, evaluate
from inkwash.nn.unet import UNetConfig
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

WORLD = ("objects=1,shape=sphere+cube+cone+ring+star+heart,color=red+yellow+green+blue+purple+black,size=large,material=matte,light=soft,"
         "background=white+gray")
SIZE, BATCH, NOISE, BUDGET = 32, 64, 64, 3e14
TRAIN, HELD_OUT, LIKELIHOODS = 8000, 1500, 64
SHAPES, COLOURS = read(WORLD).shape, read(WORLD).color
CLASSES = len(SHAPES) * len(COLOURS)
BIN = 2 / 255
COMPARED = {"fd": "quality: Frechet distance", "precision": "quality: precision", "recall": "coverage: recall", "coverage": "coverage: coverage"}


class Data(NamedTuple):
    """images uint8 (N, 3, 32, 32) and labels (N,): colour x len(SHAPES) + shape."""

    images: Tensor
    labels: Tensor

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x0 (B, 3, 32, 32) in -1..1 and labels (B,)."""
        index = torch.randint(len(self.images), (BATCH,), generator=generator)
        return scaled(self.images[index]), self.labels[index]


def scaled(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).to(memory_format=torch.channels_last)


def drawn(count: int, seed: int) -> Data:
    """`count` scenes of the small world."""
    wanted, images, labels = read(WORLD), [], []
    for number in range(count):
        picture = draw(seed, number, SIZE, wanted=wanted)
        thing = picture.labels["objects"][0]  # type: ignore[index]
        images.append(torch.from_numpy(picture.pixels).permute(2, 0, 1))
        labels.append(COLOURS.index(thing["color"]) * len(SHAPES) + SHAPES.index(thing["shape"]))
    return Data(torch.stack(images), torch.tensor(labels))


class Family(NamedTuple):
    """`step(x0, labels)` makes one update; `sample(labels, seed)` gives uint8 pictures; `bits(x0, labels)` bits per colour value (B,)."""

    step: Callable[[Tensor, Tensor], None]
    sample: Callable[[Tensor, int], Tensor]
    bits: Callable[[Tensor, Tensor], Tensor]
    parts: tuple[nn.Module, ...]


class Grow(nn.Module):
    """(z (B, NOISE), labels (B,)) -> (B, 3, 32, 32): a vector to 4 x 4, then three times twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.told = nn.Embedding(CLASSES, NOISE)
        self.first = nn.Linear(2 * NOISE, 4 * width * 16)
        widths = (4 * width, 4 * width, 2 * width, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                                                  nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU())
                                    for a, b in pairwise(widths))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.first(torch.cat([z, self.told(labels)], 1)).view(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h)
        return self.last(h)


class Shrink(nn.Module):
    """(x (B, 3, 32, 32), labels (B,)) -> (B, width_out); `guard` wraps every layer (spectral norm for a judge)."""

    def __init__(self, width: int, width_out: int, guard: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        self.body = nn.Sequential(*(part for a, b in pairwise(widths) for part in (
            guard(nn.Conv2d(a, b, 3, padding=1)), nn.LeakyReLU(0.2), guard(nn.Conv2d(b, b, 4, stride=2, padding=1)), nn.LeakyReLU(0.2))))
        self.last, self.told = guard(nn.Linear(64 * width, width_out)), nn.Embedding(CLASSES, 64 * width)
        nn.init.normal_(self.told.weight, std=0.02)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.body(x).flatten(1)                                                     # (B, 4 width x 4 x 4)
        return self.last(h) + (h * self.told(labels)).sum(1, keepdim=True) / math.sqrt(h.shape[1])


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def to_pixels(x: Tensor) -> Tensor:
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def gan(seed: int) -> Family:
    """Hinge loss with a projection judge (Miyato & Koyama 2018, arXiv 1802.05637) under spectral norm (Miyato et al. 2018, arXiv 1802.05957)."""
    torch.manual_seed(seed)
    make, judge = Grow(32).to(memory_format=torch.channels_last), Shrink(32, 1, spectral_norm).to(memory_format=torch.channels_last)
    makes, judges = (torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.0, 0.9), fused=True) for part in (make, judge))
    noise = torch.Generator().manual_seed(seed)

    def made(labels: Tensor) -> Tensor:
        return make(torch.randn(len(labels), NOISE, generator=noise), labels).tanh()

    def step(x0: Tensor, labels: Tensor) -> None:
        with bf16():
            loss = F.relu(1 - judge(x0, labels)).mean() + F.relu(1 + judge(made(labels).detach(), labels)).mean()
        update(loss, judges)
        with bf16():
            loss = -judge(made(labels), labels).mean()
        update(loss, makes)

    def sample(labels: Tensor, seed: int) -> Tensor:
        z = torch.randn(len(labels), NOISE, generator=torch.Generator().manual_seed(seed))
        with bf16():
            return torch.cat([to_pixels(make(a, b).tanh()) for a, b in zip(z.split(100), labels.split(100))])

    def bits(x0: Tensor, labels: Tensor) -> Tensor:
        """A Gaussian around each of 4000 samples, of the width that suits these pictures best: it flatters, and still is poor."""
        centres = scaled(sample(torch.arange(4000) % CLASSES, 5)).flatten(1)
        square, size = torch.cdist(x0.flatten(1), centres).square(), centres.shape[1]
        found = [(-0.5 * square / width**2).logsumexp(1) - math.log(len(centres)) - size / 2 * math.log(2 * math.pi * width**2)
                 for width in (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)]
        return bits_per_dimension(max(found, key=lambda value: float(value.mean())), size, BIN)

    return Family(step, sample, bits, (make, judge))


def vae(seed: int) -> Family:
    """The evidence bound with one learned deviation; its bits are the importance-weighted bound of 200 draws."""
    torch.manual_seed(seed)
    encode, decode = (part.to(memory_format=torch.channels_last) for part in (Shrink(32, 2 * NOISE, lambda layer: layer), Grow(32)))
    width = nn.Parameter(torch.tensor(-1.0))
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters(), width], lr=5e-4, fused=True)
    noise = torch.Generator().manual_seed(seed)

    def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return (-0.5 * ((x - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def terms(x0: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        with bf16():
            mean, log_std = encode(x0, labels).float().chunk(2, dim=1)
            z = mean + log_std.exp() * torch.randn(mean.shape, generator=noise)
            shown = decode(z, labels).float()
        zero = torch.zeros_like(z)
        return gaussian(x0, shown, width) + gaussian(z, zero, zero) - gaussian(z, mean, log_std)

    def step(x0: Tensor, labels: Tensor) -> None:
        x0 = x0 + BIN * (torch.rand(x0.shape, generator=noise) - 0.5)
        update(-terms(x0, labels, noise).mean() / x0[0].numel(), optimizer)

    def sample(labels: Tensor, seed: int) -> Tensor:
        """The decoder's mean, as everybody shows it; a draw would add its deviation as noise."""
        z = torch.randn(len(labels), NOISE, generator=torch.Generator().manual_seed(seed))
        with bf16():
            return torch.cat([to_pixels(decode(a, b)) for a, b in zip(z.split(100), labels.split(100))])

    def bits(x0: Tensor, labels: Tensor) -> Tensor:
        noise, draws = torch.Generator().manual_seed(5), 200
        found = torch.stack([terms(x0, labels, noise) for _ in range(draws)]).logsumexp(0) - math.log(draws)
        return bits_per_dimension(found, x0[0].numel(), BIN)

    return Family(step, sample, bits, (encode, decode))


def diffusion(seed: int) -> Family:
    """v-prediction with labels dropped in a tenth of the samples; 24 steps of dpmpp_2m, guidance 2. Its bits are those of its flow."""
    torch.manual_seed(seed)
    config = UNetConfig(in_channels=3, out_channels=3, widths=(96, 128, 160), attention=(False, False, True), cross=(False, False, False),
                        num_classes=CLASSES, patch=2)
    denoiser, schedule = Denoiser(config.build().to(memory_format=torch.channels_last), V(), sigma_data=0.5), Cosine()
    slow = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    noise, made = torch.Generator().manual_seed(seed), count(1)

    def step(x0: Tensor, labels: Tensor) -> None:
        x0 = x0 + BIN * (torch.rand(x0.shape, generator=noise) - 0.5)
        even = (torch.arange(len(x0)) + torch.rand(len(x0), generator=noise, dtype=torch.float64)) / len(x0)
        level = schedule(1 - even)
        told = torch.where(torch.rand(len(x0), generator=noise) < 0.1, CLASSES, labels)
        eps = torch.randn(x0.shape, generator=noise)
        with bf16():
            out = denoiser.output(level.mix(x0, eps), level, Cond({"label": told}))
        target = denoiser.prediction.target(out.level, x0 / denoiser.sigma_data, eps)
        update((out.y.float() - target).square().mean(), optimizer)
        with torch.no_grad():
            share = max(0.003, 10 / (10 + next(made)))     # over the last tenth at first, or a short run would keep its initial weights
            torch._foreach_lerp_(list(slow.values()), [p for _, p in denoiser.named_parameters()], share)

    def averaged() -> Denoiser:
        found = Denoiser(config.build(), V(), sigma_data=0.5)
        found.load_state_dict(slow)
        found.network.to(torch.bfloat16).to(memory_format=torch.channels_last)
        return found.eval()

    def sample(labels: Tensor, seed: int) -> Tensor:
        model, plan = averaged(), parse("dpmpp_2m", Sampler).plan(Karras().levels(schedule, 24))  # type: ignore[type-abstract]
        made = []
        for start in range(0, len(labels), 100):
            part = labels[start:start + 100]
            conds = {"cond": Cond({"label": part}), "null": Cond({"label": torch.full_like(part, CLASSES)})}

            def denoise(x: Tensor, level: Level, index: Tensor, part: Tensor = part, conds: dict[str, Cond] = conds) -> Tensor:
                guidances = [CFG(scale=2.0)] * len(index)
                return evaluate({"main": model}, x, level, guidances, {name: cond.take(index) for name, cond in conds.items()}, 100)[0]

            programs = [Program(plan, seed, start + i, prior(plan, (3, SIZE, SIZE), seed, start + i)) for i in range(len(part))]
            made += [to_pixels(done.clean.x) for done in run(denoise, programs)]
        return torch.stack(made)

    def bits(x0: Tensor, labels: Tensor) -> Tensor:
        model = averaged()
        model.network.float()
        with torch.enable_grad():
            return log_likelihood(model, schedule, x0, Cond({"label": labels}), steps=24, probes=2).bits_per_dimension(BIN)

    return Family(step, sample, bits, (denoiser,))


FAMILIES: dict[str, Callable[[int], Family]] = {"GAN": gan, "VAE": vae, "diffusion": diffusion}


def trained(name: str, data: Data, budget: float, seed: int = 0) -> tuple[Family, dict[str, Any]]:
    """A family trained for as many steps as the budget pays."""
    generator = torch.Generator().manual_seed(seed)
    with FlopCounterMode(display=False) as counter:
        FAMILIES[name](seed).step(*data.batch(generator))
    family, num_steps, began = FAMILIES[name](seed), int(budget // counter.get_total_flops()), time.process_time()
    for _ in range(num_steps):
        family.step(*data.batch(generator))
    return family, {"steps": num_steps, "parameters": sum(p.numel() for part in family.parts for p in part.parameters()),
                    "training_sec": time.process_time() - began}


@torch.no_grad()
def compared(real: Tensor, features: Tensor) -> dict[str, list[float]]:
    """[value, low, high] of each of COMPARED, of features (N, D) beside real ones."""
    found = measure(Views(real), Views(features))
    return {key: list(found[key][:3]) for key in COMPARED}


def measured(family: Family, held_out: Data, real: Tensor, extractor: Extractor) -> tuple[dict[str, Any], Tensor]:
    """Quality, coverage, likelihood, speed and control of a trained family, and its pictures (N, 3, 32, 32)."""
    began = time.perf_counter()
    made = family.sample(held_out.labels, 1)
    seconds = time.perf_counter() - began
    found = compared(real, extract(extractor, made.split(100)))
    known = bank(SIZE, read(WORLD))
    seen = [find(image.permute(1, 2, 0).numpy(), known) for image in made]
    asked = [(COLOURS[int(label) // len(SHAPES)], SHAPES[int(label) % len(SHAPES)]) for label in held_out.labels]
    spread = torch.rand(LIKELIHOODS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(9)) - 0.5
    dequantised = scaled(held_out.images[:LIKELIHOODS]) + BIN * spread
    bits = family.bits(dequantised, held_out.labels[:LIKELIHOODS]).detach()
    return {**found, "seconds_per_image": seconds / len(made),
            "bits": [float(bits.mean()), float(bits.std()) / math.sqrt(len(bits))],
            "color_right": sum(len(things) == 1 and things[0].color == color for things, (color, _) in zip(seen, asked)) / len(asked),
            "shape_right": sum(len(things) == 1 and things[0].shape == shape for things, (_, shape) in zip(seen, asked)) / len(asked)}, made
