"""A small text-to-image model, right in all that it declares, and networks made from it that predict something else in another gauge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from inkwash.codec import Codec, Latent, Pixels
from inkwash.cond import Cond
from inkwash.condition import NoConditioner, Null, NullConfig, TextConditioner
from inkwash.core.coordinate import Angle, Coordinate, QuarterLogSigma, TimeIndex
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import Cosine, Exponential, Linear, ScaledLinear, Schedule, Shifted, Sigmoid, Straight, ZeroTerminal
from inkwash.denoiser import Denoiser
from inkwash.io.info import Defaults, ModelInfo, Sizes
from inkwash.nn.config import NetworkConfig
from inkwash.nn.text import TextEncoderConfig
from inkwash.nn.unet import UNetConfig
from inkwash.pipeline import Pipeline
from inkwash.tokenizer import Tokenizer
from inkwash.verify.pictures import Pictures

COLOURS = {"red": (210, 40, 50), "green": (50, 190, 70), "blue": (20, 110, 220), "white": (235, 230, 225)}
CELL = 4
# Other words for one model: process, prediction, coordinate (None: Angle), scale of the data.
RIGHT: tuple[tuple[Schedule, Prediction, Coordinate | None, float], ...] = (
    (Cosine(), V(), None, 1.0), (Cosine(), X0(), None, 1.0), (Cosine(), EDM(), None, 1.0), (Linear(), Eps(), None, 1.0),
    (Linear(), Score(), None, 1.0), (ScaledLinear(), V(), TimeIndex(ScaledLinear()), 1.0), (ZeroTerminal(ScaledLinear()), V(), None, 1.0),
    (Straight(), Velocity(), None, 1.0), (Shifted(Straight()), Velocity(), TimeIndex(Straight(), 1000.0, 0.0), 1.0),
    (Exponential(), EDM(), QuarterLogSigma(), 1.0), (Exponential(), Eps(), None, 1.0), (Sigmoid(), X0(), QuarterLogSigma(), 1.0),
    (Straight(), Velocity(), None, 0.5), (Linear(), Eps(), TimeIndex(Linear()), 2.0),
)


@dataclass(frozen=True, repr=False)
class CellsConfig(NetworkConfig):
    """A linear codec: the mean colour of each cell, its channels scaled and moved as trained autoencoders do."""

    channels: int = 3
    latent_channels: int = 3
    factor: int = CELL

    def build(self) -> Cells:
        return Cells(self)


class Cells(nn.Module):
    def __init__(self, config: CellsConfig) -> None:
        super().__init__()
        self.config = config
        self.gain = nn.Parameter(torch.tensor([5.5, 2.0, 0.7]).reshape(1, 3, 1, 1))
        self.shift = nn.Parameter(torch.tensor([1.0, -2.0, 0.3]).reshape(1, 3, 1, 1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(images, CELL) * self.gain + self.shift
        return mean, torch.full_like(mean, -10.0)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate((z - self.shift) / self.gain, scale_factor=CELL)


def pictures(count: int, seed: int, size: int, cell: int = CELL) -> Pictures:
    """Rectangles of one colour on another, both a little off, with the rectangle's colour as the caption."""
    generator = torch.Generator().manual_seed(seed)
    names, side = list(COLOURS), size // cell
    shown, captions = [], []
    for _ in range(count):
        front, back = torch.randperm(len(names), generator=generator)[:2].tolist()
        field = torch.tensor(COLOURS[names[back]]).reshape(3, 1, 1).repeat(1, side, side)
        top, left = torch.randint(0, side // 2, (2,), generator=generator).tolist()
        field[:, top:top + side // 2 + 1, left:left + side // 2 + 1] = torch.tensor(COLOURS[names[front]]).reshape(3, 1, 1)
        field = field + torch.randint(-20, 21, (3, side, side), generator=generator)
        shown.append(field.clamp(0, 255).repeat_interleave(cell, 1).repeat_interleave(cell, 2).to(torch.uint8))
        captions.append(f"a {names[front]} box")
    return Pictures(torch.stack(shown), tuple(captions), True)


def write(given: Pictures, folder: Path) -> Path:
    """The pictures as a folder of PNG with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (pixels, caption) in enumerate(zip(given.pixels, given.captions, strict=True)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(caption)
    return folder


def trained(latent: bool, steps: int = 300, seed: int = 0, process: Schedule | None = None, prediction: Prediction | None = None,
            coordinate: Coordinate | None = None) -> Pipeline:
    """Latents of 16 x 16 pictures told their captions, or 8 x 8 pixels told nothing; V on the cosine process unless others are given."""
    process, prediction = process or Cosine(), prediction or V()
    size = 16 if latent else 8
    given = pictures(512, 1, size, CELL if latent else 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNetConfig(in_channels=3, out_channels=3, widths=(32,), attention=(False,), cross=(False,), mid_attention=False, cross_mid=False,
                             pooled_dim=32 if latent else 0).build()
        conditioner: NoConditioner | TextConditioner = NoConditioner()
        codec: Codec = Pixels()
        if latent:
            tokenizer = Tokenizer.train([f"a {name} box" for name in COLOURS] * 5, 270, 8)
            text = TextEncoderConfig(vocab=tokenizer.size, width=32, layers=1, heads=2, max_tokens=8).build()
            conditioner = TextConditioner(tokenizer, text, Null(NullConfig(32, 32)))
            plain = Latent(CellsConfig().build(), [0.0] * 3, [1.0] * 3, CELL)
            z = plain.encode(given.pixels).x
            codec = Latent(plain.vae, z.mean((0, 2, 3)).tolist(), z.std((0, 2, 3)).tolist(), CELL)
        x0 = codec.encode(given.pixels).x
        sigma_data = 1.0 if latent else round(float(x0.std()), 3)
        denoiser = Denoiser(network, prediction, process.gauge, sigma_data=sigma_data, coordinate=coordinate)
        cond = conditioner(given.captions)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for step in range(steps):
            pick = torch.randint(0, len(x0), (32,))
            level = process((torch.arange(32) + torch.rand(())) / 32)
            eps = torch.randn(32, *x0.shape[1:])
            keep = torch.rand(32) >= 0.15
            told = conditioner.drop(cond.take(pick), keep) if latent else Cond.none(32)
            out = denoiser.output(level.mix(x0[pick], eps), level, told)
            loss = (out.y - prediction.target(out.level, x0[pick] / sigma_data, eps)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 - step / steps)
    mean, std = (tuple(part.flatten().tolist()) for part in (codec.mean, codec.std)) if isinstance(codec, Latent) else ((), ())
    info = ModelInfo("toy", repr(process), repr(prediction), process.gauge.value, sigma_data, repr(coordinate) if coordinate else "",
                     codec="latent" if latent else "pixels", channels=3, factor=CELL if latent else 1, mean=mean, std=std,
                     conditioning="text" if latent else "none", length=8 if latent else 0, sizes=Sizes((size, size), size, size, size),
                     defaults=Defaults(4, "ddim", "trailing", 1.0))
    return Pipeline(denoiser.eval().requires_grad_(False), codec, conditioner, info)


class Converted(nn.Module):
    """The same knowledge in other words: a network that predicts `prediction` in `gauge`, told the noise by `coordinate`."""

    def __init__(self, inner: Denoiser, prediction: Prediction, gauge: Gauge, coordinate: Coordinate) -> None:
        super().__init__()
        self.inner, self.prediction, self.gauge, self.coordinate = inner, prediction, gauge, coordinate

    def forward(self, x: Tensor, told: Tensor, cond: Cond) -> Tensor:
        level = self.gauge.split(self.lam(told.double()).clamp(-7, 9))
        unit = self.inner.sigma_data
        x0 = self.inner(x * unit, Level(level.alpha, level.sigma * unit), cond) / unit
        return self.prediction.target(level, x0, level.eps(x, x0))

    def lam(self, told: Tensor) -> Tensor:
        if isinstance(self.coordinate, Angle):
            return -torch.log(torch.tan(told / self.coordinate.scale * torch.pi / 2))
        if isinstance(self.coordinate, QuarterLogSigma):
            return -4 * told
        assert isinstance(self.coordinate, TimeIndex)
        return self.coordinate.schedule.lam((told - self.coordinate.offset) / self.coordinate.scale)


def converted(pipe: Pipeline, process: Schedule, prediction: Prediction, coordinate: Coordinate | None = None, scale: float = 1.0) -> Pipeline:
    """The model in other words, rightly declared. `scale` is that of the data: sigma_data times it, and of latents std over it."""
    import dataclasses

    coordinate = coordinate or Angle()
    info, codec = pipe.info, pipe.codec
    std = tuple(value / scale for value in info.std)
    if isinstance(codec, Latent):
        codec = Latent(codec.vae, info.mean, std, codec.factor)
    sigma_data = info.sigma_data * (scale if isinstance(codec, Latent) else 1.0)
    info = dataclasses.replace(info, process=repr(process), prediction=repr(prediction), gauge=process.gauge.value, sigma_data=sigma_data, std=std)
    network = Converted(pipe.denoiser, prediction, process.gauge, coordinate)
    return Pipeline(Denoiser(network, prediction, process.gauge, sigma_data=sigma_data, coordinate=coordinate), codec, pipe.conditioner, info)
