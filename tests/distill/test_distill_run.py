"""A whole run: a tiny text-to-image model as teacher, a folder of pictures, and a student that the pipeline treats as one branch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import inkwash.recipes  # noqa: F401 - registers the tasks
from inkwash.distill.run import GuidanceRun
from inkwash.errors import UsageError
from inkwash.io.folder import load_info
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.train.config import read_recipe, validate
from inkwash.train.run import train
from interop_toys import build_shared

STEPS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        Image.new("RGB", (32, 32), (25 * i, 200 - 15 * i, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a small red cube {i % 3}")
    return folder


@pytest.fixture(scope="module")
def student(pictures: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("guided") / "run"
    settings = {"task": "guidance", "name": "tiny-guided", "teacher": str(tiny_model), "steps": STEPS, "batch": 4, "precision": "float32",
                "ema_half_life": 8, "checkpoint_every": 2, "validate_every": 3, "export_dtype": "float32", "optimizer": {"lr": 0.01},
                "data": {"size": 32, "validation": 2}}
    result = train(validate(settings, "test"), [pictures], out, quiet=True)
    assert result.step == STEPS
    return out


def test_a_teacher_that_diffusers_opens_has_a_student_that_it_opens(pictures: Path, tmp_path: Path) -> None:
    teacher = build_shared(tmp_path / "teacher")
    settings = {"task": "guidance", "name": "shared-guided", "teacher": str(teacher), "steps": 1, "batch": 2, "precision": "float32",
                "ema_half_life": 8, "export_dtype": "float32", "data": {"size": 32, "validation": 2}}
    train(validate(settings, "test"), [pictures], tmp_path / "run", quiet=True)
    model = tmp_path / "run" / "model"
    assert Pipeline.from_pretrained(model, dtype=torch.float32).distilled
    assert json.loads((model / "unet" / "config.json").read_text("utf-8"))["time_cond_proj_dim"] == 256
    assert json.loads((model / "model_index.json").read_text("utf-8"))["_class_name"] == "StableDiffusionPipeline"


@pytest.mark.parametrize(("scales", "usual"), [((4.0, 8.0), 4.0), ((1.0, 2.0), 2.0), ((1.0, 8.0), 3.0)])
def test_a_student_draws_by_default_with_a_scale_that_it_has_learned(scales: tuple[float, float], usual: float, pictures: Path, tiny_model: Path,
                                                                     tmp_path: Path) -> None:
    settings = {"task": "guidance", "name": "tiny-guided", "teacher": str(tiny_model), "steps": 1, "batch": 2, "precision": "float32",
                "scales": scales, "data": {"size": 32, "validation": 2}}
    train(validate(settings, "test"), [pictures], tmp_path / "run", quiet=True)
    assert load_info(tmp_path / "run" / "model").defaults.guidance == usual


def request(guidance: float | str, negative: str = "") -> Request:
    return Request("a small red cube", negative, 1, 4, "ddim", "trailing", guidance, 32, 32)


def test_g13_the_finished_student_is_a_model_of_half_the_evaluations(student: Path, tiny_model: Path) -> None:
    teacher, pipe = Pipeline.from_pretrained(tiny_model, dtype=torch.float32), Pipeline.from_pretrained(student / "model", dtype=torch.float32)
    assert pipe.distilled
    assert not teacher.distilled
    assert (teacher.generate([request(4.0)])[0].nfe, pipe.generate([request(4.0)])[0].nfe) == (8, 4)
    assert pipe.info.card["teacher"] == teacher.hash
    four, eight, named = pipe.generate([request(4.0), request(8.0), request("Distilled(4.0)")])
    assert torch.equal(four.latent, named.latent)
    assert not torch.equal(four.latent, eight.latent)
    assert pipe.determinism in ("exact", "tolerance")


def test_g12_a_negative_prompt_is_reported_inert(student: Path) -> None:
    pipe = Pipeline.from_pretrained(student / "model", dtype=torch.float32)
    plain, negative = pipe.generate([request(4.0), request(4.0, "grey")])
    assert torch.equal(plain.latent, negative.latent)
    assert any("negative prompt is inert" in note for note in negative.warnings)
    assert not any("inert" in note for note in plain.warnings)


def test_guidance_that_does_not_suit_is_refused(student: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="is distilled into"):
        Pipeline.from_pretrained(student / "model").generate([request("CFG(4.0)")])
    with pytest.raises(UsageError, match="is not distilled into"):
        Pipeline.from_pretrained(tiny_model).generate([request("Distilled(4.0)")])


def test_the_same_run_again_has_nothing_left_to_do(student: Path, pictures: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = read_recipe("mini-guided", [f"teacher={tiny_model}", "steps=2", "batch=4", "data.size=32", "data.validation=2", "sample.every=0"])
    assert isinstance(config, GuidanceRun)
    first = train(config, [pictures], tmp_path / "a", quiet=True)
    shutil.rmtree(tmp_path / "a" / "model")
    assert train(config, [pictures], tmp_path / "a", quiet=True) == first
