"""Companions guide a model when they live in its space, and are refused when they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash.cli.main import run
from inkwash.companion import CLASSES, class_of
from inkwash.core.spacing import Trailing
from inkwash.errors import CheckpointError, UsageError
from inkwash.io.folder import load_part, part_hash, save_part
from inkwash.nn.classifier import ClassifierConfig
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.train.config import validate
from inkwash.train.run import train

GUIDED = "ClassifierGuidance(scale=3, base='cond', interval=Interval(0, 50))"


def make(pipeline: Pipeline, guidance: str, prompt: str = "a small cube", seed: int = 1) -> torch.Tensor:
    image = pipeline.generate([Request(prompt, "", seed, 4, "ddim", "trailing", guidance, 32, 32)], decode=False)[0]
    return image.latent


@pytest.fixture(scope="module")
def weak(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with another denoiser."""
    folder = tmp_path_factory.mktemp("weak") / "weak"
    shutil.copytree(tiny_model, folder)
    network = load_part(folder, "unet")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    save_part(folder, "unet", network)
    return folder


@pytest.fixture(scope="module")
def judge(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights for the tiny model's latents."""
    folder = tmp_path_factory.mktemp("judge") / "run" / "model"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = ClassifierConfig(in_channels=4, num_classes=2, widths=(16,), attention=(False,)).build()
        for parameter in network.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.3)
    save_part(folder, "classifier", network)
    (folder / "classifier" / CLASSES).write_text(json.dumps({"classes": ["cube", "cat"], "autoencoder": part_hash(tiny_model, "vae")}))
    return folder.parent


def test_autoguidance_extrapolates_from_the_weaker_model(tiny_model: Path, weak: Path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_model, weak=weak, dtype=torch.float32)
    alone, other = Pipeline.from_pretrained(tiny_model, dtype=torch.float32), Pipeline.from_pretrained(weak, dtype=torch.float32)
    assert torch.equal(make(pipeline, "AutoGuidance(scale=1)"), make(alone, "none"))
    assert torch.allclose(make(pipeline, "AutoGuidance(scale=0)"), make(other, "none"), atol=1e-5)
    assert not torch.allclose(make(pipeline, "AutoGuidance(scale=2)"), make(alone, "none"), atol=1e-3)
    with pytest.raises(UsageError, match="weak"):
        make(alone, "AutoGuidance(scale=2)")


def test_classifier_guidance_raises_the_probability_of_the_named_class(tiny_model: Path, judge: Path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_model, classifier=judge, dtype=torch.float32)
    assert pipeline.classifier is not None
    level = Trailing().levels(pipeline.schedule, 4).levels.take(torch.tensor([3]))
    from inkwash.cond import Cond

    def log_prob(latent: torch.Tensor, number: int) -> float:
        with torch.no_grad():
            return float(pipeline.classifier.log_prob(latent[None], level, Cond({"label": torch.tensor([number])})))  # type: ignore[union-attr]

    for prompt, number in (("a small cube", 0), ("emoji of a smiling cat", 1)):
        gain = [log_prob(make(pipeline, GUIDED, prompt, seed), number) - log_prob(make(pipeline, "none", prompt, seed), number) for seed in range(4)]
        assert sum(gain) > 0
    with pytest.raises(UsageError, match="cube, cat"):
        make(pipeline, GUIDED, "a sphere")


def test_a_classifier_that_was_trained_here_can_be_named(tiny_model: Path, stranger_model: Path, tmp_path: Path) -> None:
    raw = {"task": "classifier", "steps": 1, "batch": 4, "precision": "float32", "process": "Cosine()", "classes": ["red", "blue"],
           "autoencoder": str(tiny_model), "network": "ClassifierConfig(in_channels=4, num_classes=2, widths=(16,), attention=(False,))",
           "data": {"size": 32, "validation": 2}, "validate_every": 0}
    data, noise = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    for i in range(12):
        Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(data / f"{i:02}.png")
        (data / f"{i:02}.txt").write_text(f"a {('red', 'blue')[i % 2]} square")
    train(validate(raw, "judge"), [data], tmp_path / "run", quiet=True)
    pipeline = Pipeline.from_pretrained(tiny_model, classifier=tmp_path / "run")
    assert pipeline.classifier is not None
    assert pipeline.classifier.classes == ("red", "blue")
    with pytest.raises(CheckpointError, match="another autoencoder"):
        Pipeline.from_pretrained(stranger_model, classifier=tmp_path / "run")


def test_a_companion_from_another_space_is_refused(tiny_model: Path, stranger_model: Path, judge: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another vae"):
        Pipeline.from_pretrained(tiny_model, weak=stranger_model)
    with pytest.raises(CheckpointError, match="another autoencoder"):
        Pipeline.from_pretrained(stranger_model, classifier=judge)
    with pytest.raises(CheckpointError, match="no finished classifier"):
        Pipeline.from_pretrained(tiny_model, classifier=tmp_path)


def test_reproduce_needs_the_same_companions(tiny_model: Path, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "a.png")
    model = ["--model", str(tiny_model)]
    assert run(["generate", "a cube", *model, "--weak", str(weak), "--guidance", "AutoGuidance(scale=2)", "--seed", "3", "-o", file]) == 0
    assert run(["reproduce", file, *model, "--weak", str(weak)]) == 0
    assert run(["reproduce", file, *model]) == 4
    assert "companions" in capsys.readouterr().err


@pytest.mark.parametrize(("guidance", "negative", "inert"), [
    (3.0, "", ["weaker model"]), ("AutoGuidance(scale=2)", "", []), ("AutoGuidance(scale=1)", "", ["weaker model"]),
    ("AutoGuidance(scale=2)", "a cat", ["negative prompt"]), (1.0, "a cat", ["negative prompt", "weaker model"]),
    ("AutoGuidance(scale=2, interval=Interval(1e6, 1e7))", "", ["weaker model", "scale"])])
def test_G12_what_guidance_makes_no_use_of_is_said(tiny_model: Path, weak: Path, guidance: float | str, negative: str, inert: list[str]) -> None:
    pipeline = Pipeline.from_pretrained(tiny_model, weak=weak)
    image = pipeline.generate([Request("a small cube", negative, 1, 4, "ddim", "trailing", guidance, 32, 32)], decode=False)[0]
    assert [text.removeprefix("the ").split(" is inert")[0] for text in image.warnings if " is inert" in text] == inert


def test_the_command_line_warns_of_a_weaker_model_that_is_not_read(tiny_model: Path, weak: Path, tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a cube", "--model", str(tiny_model), "--weak", str(weak), "-o", str(tmp_path / "a.png")]) == 0
    assert "warning: the weaker model is inert" in capsys.readouterr().err


def test_classes_are_whole_words() -> None:
    classes = ("shirt", "t-shirt", "hat")
    assert class_of("photo of a white shirt", classes) == 0
    assert class_of("photo of a white t-shirt", classes) == 1
    assert class_of("a hat and a shirt", classes) is None
    assert class_of("that", classes) is None
