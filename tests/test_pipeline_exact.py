"""The whole pipeline against exact answers: a network that knows its data is one point per condition must return that point.

For data that is the point m the noise in x is eps = (x - alpha m) / sigma, and the prediction's own target is the exact answer. Guidance
of two such points u and c is again a point, u + w (c - u), so the image that comes out is that number: this checks schedule, coordinate,
prediction, gauge, sampler, the convention of w, branches and codec at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inkwash import Pipeline, Request
from inkwash.codec import Pixels
from inkwash.cond import Cond
from inkwash.condition import Conditioner, NoConditioner
from inkwash.core.level import Gauge
from inkwash.core.prediction import Prediction
from inkwash.denoiser import Denoiser
from inkwash.io.folder import save_info, save_part
from inkwash.io.info import Defaults, ModelInfo, Sizes
from inkwash.nn.unet import UNetConfig
from inkwash.sample import Sampler
from inkwash.value import alias_table, parse

POINTS = {"cat": 0.2, "dog": -0.1, "": 0.4, "null": 0.05}


class Point(nn.Module):
    """The exact network for data that is the point cond["pooled"], told the angle in 0..1000."""

    def __init__(self, prediction: Prediction, gauge: Gauge) -> None:
        super().__init__()
        self.prediction, self.gauge = prediction, gauge
        self.rows = 0

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        self.rows += len(x)
        angle = noise.double() / 1000 * math.pi / 2
        level = self.gauge.split(torch.log(torch.cos(angle).clamp(min=0)) - torch.log(torch.sin(angle)))
        x0 = cond["pooled"].reshape(-1, 1, 1, 1).expand_as(x)
        return self.prediction.target(level, x0, level.eps(x, x0)).float()


class Named(Conditioner):
    """The condition of a prompt is the number of its point."""

    def forward(self, prompts: Sequence[str]) -> Cond:
        return Cond({"pooled": torch.tensor([[POINTS.get(prompt, 0.0)] for prompt in prompts])})

    def null(self, batch: int) -> Cond:
        return Cond({"pooled": torch.full((batch, 1), POINTS["null"])})


def exact(process: str = "Cosine()", prediction: str = "V()", gauge: str = "VP") -> Pipeline:
    info = ModelInfo("exact", process, prediction, gauge, codec="pixels", channels=3, factor=1, sizes=Sizes((8, 8), 8, 8, 8),
                     defaults=Defaults(4, "ddim", "trailing", 2.0))
    rule = parse(prediction, Prediction)  # type: ignore[type-abstract]
    return Pipeline(Denoiser(Point(rule, Gauge(gauge)), rule, Gauge(gauge)), Pixels(), Named(), info)


def ask(prompt: str, **settings: object) -> Request:
    return Request(prompt, **{"steps": 4, "sampler": "ddim", "width": 8, "height": 8, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(("process", "prediction", "gauge"), [("Cosine()", "V()", "VP"), ("Straight()", "Velocity()", "FLOW"),
                                                              ("Linear()", "Eps()", "VP"), ("Exponential()", "EDM()", "VP"),
                                                              ("ZeroTerminal(ScaledLinear())", "X0()", "VP")])
def test_the_image_is_the_point_of_its_prompt(process: str, prediction: str, gauge: str) -> None:
    for image in exact(process, prediction, gauge).generate([ask("cat", guidance=1.0, seed=seed, sampler=name)
                                                             for seed, name in enumerate(("ddim", "dpmpp_2m", "heun", "unipc"))]):
        assert float((image.latent - POINTS["cat"]).abs().max()) < 2e-3, image.request.sampler


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.5])
def test_G3_guidance_is_u_plus_w_times_c_minus_u_to_the_pixel(scale: float) -> None:
    plain, negative = exact().generate([ask("cat", guidance=scale), ask("cat", negative="dog", guidance=scale)])
    for image, other in ((plain, POINTS["null"]), (negative, POINTS["dog"] if scale != 1.0 else POINTS["null"])):
        expected = other + scale * (POINTS["cat"] - other)
        assert float((image.latent - expected).abs().max()) < 1e-4
        assert int((image.pixels.int() - round((expected + 1) * 127.5)).abs().max()) <= 1
        assert image.nfe == (4 if scale in (0.0, 1.0) else 8)


def test_S15_nfe_is_what_the_network_counted_when_nothing_is_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "call_seconds", lambda *_: {2: 1.0})                  # calls of a toy take no time, so any size might be chosen
    pipe = exact()
    images = pipe.generate([ask("cat", guidance=3.0), ask("dog", guidance=2.0, sampler="heun")])
    assert sum(image.nfe for image in images) <= pipe.denoiser.network.rows  # filling up may add rows
    pipe.denoiser.network.rows = 0
    [image] = pipe.generate([ask("cat", guidance=3.0, sampler="heun")])
    assert image.nfe == pipe.denoiser.network.rows == 2 * pipe.program(image.request).plan.rows > 8


def test_every_exact_sampler_returns_the_point() -> None:
    names = [name for name, sampler in alias_table(Sampler).items() if sampler.exact]
    assert len(names) > 10
    for name, image in zip(names, exact().generate([ask("cat", sampler=name, steps=6, guidance=1.0, seed=i) for i, name in enumerate(names)])):
        assert float((image.latent - POINTS["cat"]).abs().max()) < 1e-3, name


def test_a_model_of_pixels_without_text_is_saved_and_loaded(tmp_path: Path) -> None:
    save_part(tmp_path, "unet", UNetConfig(in_channels=3, out_channels=3, widths=(32,), attention=(False,), cross=(False,), head_dim=16).build())
    save_info(tmp_path, ModelInfo("pixels", "Linear()", "Eps()", codec="pixels", channels=3, factor=1, conditioning="none",
                                  sizes=Sizes((8, 8), 8, 16, 8), defaults=Defaults(3, "ddpm", "leading", 1.0)))
    pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe.conditioner, NoConditioner)
    assert pipe.determinism == "exact"
    [image] = pipe.generate([ask("a cat", guidance=1.0, sampler="ddpm", spacing="leading")])
    assert image.pixels.shape == (3, 8, 8)
    assert image.warnings == ("the prompt is inert: this model is not conditioned on text",)
