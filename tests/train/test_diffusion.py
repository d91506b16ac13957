"""Denoiser runs: the known optimum on Gaussian data, drop rate, joint text, and what is exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import toy
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.prediction import V
from inkwash.core.schedule import Cosine, Straight
from inkwash.data.heldout import hold_out
from inkwash.data.source import open_source
from inkwash.denoiser import Denoiser
from inkwash.errors import CheckpointError
from inkwash.pipeline import Pipeline
from inkwash.recipes.preview import preview
from inkwash.train.config import validate
from inkwash.train.diffusion import DenoiserTask, Histogram
from inkwash.train.features import read_codec
from inkwash.train.levels import StratifiedLevels
from inkwash.train.log import read_log
from inkwash.train.run import train
from inkwash.train.setting import Setting
from inkwash.train.task import Draw

TEXT = ("UNetConfig(in_channels=3, out_channels=3, widths=(8,), attention=(False,), cross=(True,), mid_attention=False, text_dim=16, "
        "pooled_dim=16, head_dim=8)")
ENCODER = "TextEncoderConfig(vocab=300, width=16, layers=1, heads=2, max_tokens=12)"


class Shrink(nn.Module):
    """y = f(noise) x with f a small MLP: enough for Gaussian data, whose best denoiser is linear in x."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        angle = noise * (math.pi / 2000)
        features = torch.stack([angle.cos(), angle.sin(), angle - math.pi / 4], 1)
        return self.factor(features)[:, :, None, None] * x


def test_t5_a_trained_net_reaches_the_optimum_on_gaussian_data() -> None:
    torch.manual_seed(0)
    std, schedule = 0.4, Cosine()
    denoiser = Denoiser(Shrink(), V())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)

    def loss(step: int, count: int) -> tuple[Tensor, Tensor]:
        draw = Draw(0, step, count)
        t = StratifiedLevels().times(draw.uniform((), "level"), draw.position, count)
        x0, eps = std * draw.normal((1, 4, 4), "data"), draw.normal((1, 4, 4), "noise")
        level = schedule(t)
        out = denoiser.output(level.mix(x0, eps), level, Cond.none(count))
        return (out.y - V().target(out.level, x0, eps)).square().mean(), t

    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 600)
        optimizer.zero_grad()
        loss(step, 128)[0].backward()
        optimizer.step()
    with torch.no_grad():
        found, t = loss(10_000, 40_000)
    level = schedule(t)
    optimum = (std**2 / (level.alpha**2 * std**2 + level.sigma**2)).mean()              # Var(v | x) = std^2 / Var(x)
    assert float(found) == pytest.approx(float(optimum), rel=0.02)


def denoiser_task(data: Path, tmp_path: Path, **changes: Any) -> DenoiserTask:
    setting = Setting(open_source([data]), None, tmp_path / "cache", tmp_path, torch.device("cpu"))
    return DenoiserTask(toy(**changes), setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(("process", "text", "levels"), [("Cosine()", "MinSNRWeight()", "uniform"), ("Straight()", "MinSNRWeight()", "stratified"),
                                                         ("Cosine()", "SimpleWeight()", "uniform")])
def test_t5_f12_the_loss_of_a_run_is_its_formula(process: str, text: str, levels: str, data: Path, tmp_path: Path) -> None:
    """A new network says 0, so the loss is w |v|^2 with v = alpha eps - sigma x0 / sd, on the levels of data of deviation sd."""
    task = denoiser_task(data, tmp_path, process=process, weighting=text, sigma_data=0.5, levels=levels)
    try:
        batch, draw = task.batch(0), Draw(3, 7, 16, first=4, count=4)
        (loss,) = task.losses(batch, draw)
    finally:
        task.close()
    t, eps = 1 - draw.uniform((), "level"), draw.normal((3, 8, 8), "noise").double()
    t = t if levels == "uniform" else (torch.arange(4, 8) + t) / 16                      # the samples stand at 4..7 of a batch of 16
    lam = (Cosine() if process == "Cosine()" else Straight()).lam(t) + math.log(0.5)
    alpha, sigma = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()        # v is the same number in every gauge
    v = alpha[:, None, None, None] * eps - sigma[:, None, None, None] * batch.x0.double() / 0.5
    weight = torch.exp(2 * lam).clamp(max=5) * sigma**2 if text == "MinSNRWeight()" else torch.ones(4)
    torch.testing.assert_close(loss.logs["mse"].double(), v.square().flatten(1).mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.value.double(), weight * v.square().flatten(1).mean(1), rtol=1e-5, atol=0)


def test_g2_a_run_drops_conditions_at_its_rate_whatever_the_level(data: Path, tmp_path: Path) -> None:
    task = denoiser_task(data, tmp_path, network=TEXT, text_network=ENCODER, vocab=300, drop=0.2, levels="uniform", batch=24)
    seen: list[tuple[Tensor, Tensor]] = []

    def error(x0: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        seen.append((t, cond["mask"].sum(1) == 1))                                       # no condition is one token, a caption several
        return torch.zeros(len(t)), torch.ones(len(t))

    task.error = error  # type: ignore[method-assign]
    try:
        batch = task.batch(0)
        for step in range(60):
            next(task.losses(batch, Draw(0, step, 24)))
    finally:
        task.close()
    t, dropped = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert abs(float(dropped.double().mean()) - 0.2) < 3 * (0.2 * 0.8 / len(t)) ** 0.5
    off = float(t[dropped].mean() - t[~dropped].mean())
    assert abs(off) < 4 * (1 / 12 * (1 / int(dropped.sum()) + 1 / int((~dropped).sum()))) ** 0.5


def test_t12_validation_is_at_the_middles_of_ten_parts(data: Path, tmp_path: Path) -> None:
    source = open_source([data])
    task = DenoiserTask(toy(), Setting(*hold_out(source, 2), tmp_path / "cache", tmp_path, torch.device("cpu")))  # type: ignore[arg-type]
    asked: list[Tensor] = []

    def error(x0: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        asked.append(t)
        return t.float(), torch.full_like(t, 7.0)                                        # the weight is no part of it

    task.error = error  # type: ignore[method-assign]
    try:
        found = task.validate()
    finally:
        task.close()
    assert [t.unique().tolist() for t in asked] == [[pytest.approx(0.1 * k + 0.05)] for k in range(10)]
    assert found["loss"] == pytest.approx(0.5)
    assert [found[f"t{k}"] for k in range(10)] == pytest.approx([0.1 * k + 0.05 for k in range(10)])


def test_t12_the_histogram_keeps_levels_apart() -> None:
    histogram = Histogram(4)
    histogram.add(torch.tensor([0.01, 0.25, 0.26, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert histogram.means() == [2.0, 5.0, None, 7.0]


def test_every_run_logs_losses_by_level(data: Path, tmp_path: Path) -> None:
    train(toy(validate_every=6), [data], tmp_path / "run", quiet=True)
    last = [event for event in read_log(tmp_path / "run") if event["event"] == "validation"][-1]
    assert {f"t{k}" for k in range(10)} <= set(last)
    assert any(name.startswith("train_t") for name in last)
    assert last["loss"] == pytest.approx(sum(last[f"t{k}"] for k in range(10)) / 10)


def test_text_trained_along_learns_resumes_and_makes_a_model(data: Path, tmp_path: Path) -> None:
    settings = {"network": TEXT, "text_network": ENCODER, "vocab": 300, "validate_every": 6,
                "sample": {"every": 6, "prompts": ["a red square", "blue"], "seeds": [0, 1], "steps": 2}}
    straight = train(toy(**settings), [data], tmp_path / "a", quiet=True, preview=preview)
    train(toy(**settings, steps=4), [data], tmp_path / "b", quiet=True)
    assert train(toy(**settings), [data], tmp_path / "b", quiet=True) == straight
    assert (tmp_path / "a" / "samples" / "00000006.png").is_file()
    pipeline = Pipeline.from_pretrained(tmp_path / "a" / "model")
    assert pipeline.info.vocabulary["square"] == 22
    assert pipeline.info.card["data"] == ["squares"]
    assert str(tmp_path) not in (tmp_path / "a" / "model" / "inkwash.json").read_text()
    null = pipeline.conditioner.null(1)
    assert bool((null["tokens"][:, 0] != 0).all())


def test_a_model_knows_and_counts_only_what_it_was_shown(data: Path, tmp_path: Path) -> None:
    settings = {"network": TEXT, "text_network": ENCODER, "vocab": 300, "steps": 1, "checkpoint_every": 1}
    train(toy(**settings, data={"leave_out": ["^a red"], "repeat": {"blue": 2}}), [data], tmp_path / "run", quiet=True)
    info = Pipeline.from_pretrained(tmp_path / "run" / "model").info
    assert "red" not in info.vocabulary
    assert info.vocabulary["blue"] == info.card["images"] - info.vocabulary["green"] > 0
    assert info.card["left_out"] == ["^a red"]


def test_g2_the_null_condition_is_learned(data: Path, tmp_path: Path) -> None:
    from inkwash.train import checkpoint

    settings = {"network": TEXT, "text_network": ENCODER, "vocab": 300, "drop": 0.5, "steps": 4, "keep": 9}
    train(toy(**settings), [data], tmp_path / "run", quiet=True)
    early, late = (checkpoint.load(checkpoint.path_of(tmp_path / "run", step)).tensors["weights"]["denoiser/null.token"] for step in (2, 4))
    assert not torch.equal(early, late)


def test_a_model_of_the_form_that_the_field_shares_is_trained_from_nothing(data: Path, tmp_path: Path) -> None:
    """AutoencoderKL, UNet2D told the index of a discrete schedule, CLIP's text encoder and tokenizer, the empty prompt as no prompt."""
    vae = "AutoencoderKLConfig(latent_channels=4, widths=(8, 8), blocks=1, groups=2, attention=False, image=16)"
    network = ("UNet2DConfig(in_channels=4, out_channels=4, widths=(8, 16), blocks=1, down=('none', 'text'), up=('none', 'text'), mid='text', "
               "heads=(1, 2), depth=(1, 1), text_dim=16, groups=4, image=8)")
    text = "ClipTextConfig(vocab=600, width=16, inner=32, layers=1, heads=2, max_tokens=12, end=0, init=1.0)"
    train(validate({"task": "autoencoder", "steps": 2, "batch": 4, "precision": "float32", "data": {"size": 16, "validation": 2}, "network": vae,
                    "export_dtype": "float32"}, "vae"), [data], tmp_path / "vae", quiet=True)
    settings = {"network": network, "text_network": text, "vocab": 600, "process": "DiscreteCosine()", "drop": 0.5, "steps": 4,
                "coordinate": "TimeIndex(DiscreteCosine(), 1000.0, -1.0)", "autoencoder": str(tmp_path / "vae"), "data": {"size": 16}}
    straight = train(toy(**settings), [data], tmp_path / "a", quiet=True)
    train(toy(**settings | {"steps": 2}), [data], tmp_path / "b", quiet=True)
    assert train(toy(**settings), [data], tmp_path / "b", quiet=True) == straight
    folder = tmp_path / "a" / "model"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"] == 1.0
    assert not (folder / "conditioner").exists()
    pipeline = Pipeline.from_pretrained(folder)
    assert pipeline.info.coordinate == "TimeIndex(schedule=DiscreteCosine())"
    assert torch.equal(pipeline.conditioner.null(1)["tokens"], pipeline.conditioner([""])["tokens"])
    assert pipeline("a red square", num_inference_steps=2, seed=1).images[0].size == (16, 16)


def test_the_whole_chain_of_parts(data: Path, tmp_path: Path) -> None:
    common = {"steps": 2, "batch": 4, "precision": "float32", "data": {"size": 16, "validation": 2}, "validate_every": 2}
    vae = "AutoencoderConfig(latent_channels=4, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1), patch=2)"
    clip = f"ClipConfig(text={ENCODER}, image=ImageTowerConfig(widths=(8,), blocks=(1,), out_dim=16, patch=4), shared_dim=8)"
    classifier = "ClassifierConfig(in_channels=4, num_classes=3, widths=(8,), attention=(False,))"
    parts = {"vae": str(tmp_path / "vae"), "clip": str(tmp_path / "clip")}
    train(validate({**common, "task": "autoencoder", "network": vae, "sample": {"every": 2}}, "vae"), [data], tmp_path / "vae", quiet=True)
    train(validate({**common, "task": "contrastive", "network": clip, "vocab": 300}, "clip"), [data], tmp_path / "clip", quiet=True)
    train(validate({**common, "task": "classifier", "network": classifier, "process": "Cosine()", "classes": ["red", "green", "blue"],
                    "autoencoder": parts["vae"]}, "classifier"), [data], tmp_path / "classifier", quiet=True)
    network = TEXT.replace("channels=3", "channels=4")
    train(toy(network=network, autoencoder=parts["vae"], text=parts["clip"], steps=2, data={"size": 16, "flip": True}), [data], tmp_path / "run",
          quiet=True)
    assert (tmp_path / "vae" / "samples" / "00000002.png").is_file()
    assert read_log(tmp_path / "clip")[0]["text_to_image_top1"] >= 0
    assert "accuracy_t9" in next(event for event in read_log(tmp_path / "classifier") if event["event"] == "validation")
    pipeline = Pipeline.from_pretrained(tmp_path / "run" / "model")
    assert pipeline("a red square", num_inference_steps=2, seed=1).images[0].size == (16, 16)
    of_part, of_model = (read_codec(folder).state_dict() for folder in (tmp_path / "vae", tmp_path / "run" / "model"))
    assert all(torch.equal(of_part[name], of_model[name]) for name in of_part)


def test_l3_stored_statistics_give_unit_variance(data: Path, tmp_path: Path) -> None:
    vae = "AutoencoderConfig(latent_channels=2, widths=(8,), encoder_blocks=(1,), decoder_blocks=(1,), patch=2)"
    train(validate({"task": "autoencoder", "network": vae, "steps": 8, "batch": 8, "precision": "float32", "data": {"size": 16, "validation": 2},
                    "export_dtype": "float32"}, "vae"), [data], tmp_path / "vae", quiet=True)
    codec = read_codec(tmp_path / "vae")
    from inkwash.data.transform import decode, fit

    source = open_source([data])
    latents = codec.encode(torch.stack([fit(decode(source[i]), 16) for i in range(len(source))]))[0]
    std = latents.std((0, 2, 3))
    assert bool(((std > 0.9) & (std < 1.1)).all())
    assert bool((latents.mean((0, 2, 3)).abs() < 0.1).all())


def test_an_unfinished_part_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='"/nothing" has no finished vae'):
        train(toy(autoencoder="/nothing"), [data], tmp_path / "run", quiet=True)
