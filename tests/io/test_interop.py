"""A folder of ours in diffusers, as `benchmarks/interop.py` compares them: the same ids, and pixels within 2 levels (row L7)."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash.io.find import read_info
from inkwash.io.folder import save_info
from inkwash.io.foreign_info import SAMPLERS, foreign_info
from inkwash.io.foreign_scheduler import scheduler_config
from inkwash.io.info import Defaults
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.sample import Sampler
from inkwash.value import parse
from interop_toys import build_shared

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


def process(text: str) -> dict[str, str]:
    return {"process": text, "coordinate": f"TimeIndex({text}, 1000.0, -1.0)"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shared(tmp_path_factory.mktemp("shared") / "model", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def interop() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import interop

    yield interop
    sys.path.remove(str(Path(interop.__file__).parent))


def test_diffusers_opens_our_folder_with_the_same_pixels_and_ids(interop: Any, shared: Path) -> None:
    found = interop.compare(str(shared), (10,), (4.0,), ("ddim", "euler"), interop.PROMPTS[:2])
    assert found["parts"] == {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer", "unet": "UNet2DConditionModel",
                              "scheduler": "DPMSolverMultistepScheduler"}
    assert [row["scheduler"] for row in found["pictures"]] == ["DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler"]
    assert found["largest"] <= interop.GOAL
    assert min(row["spread"] for row in found["pictures"]) > 10, "pictures of one colour prove nothing"
    assert found["texts_with_other_ids"] == []
    assert "largest difference of all" in interop.table({**found, "machine": {"date": "", "versions": {"torch": "", "diffusers": ""}, "command": ""}})


def test_a_student_of_guidance_is_told_the_scale_there_too(interop: Any, tmp_path: Path) -> None:
    folder = build_shared(tmp_path / "student", guidance=True)
    ours, pipe = Pipeline.from_pretrained(folder, dtype=torch.float32), interop.open_there(folder)
    rows = [(Defaults(4, "dpmpp_2m", "trailing", scale), "") for scale in (2.0, 7.3)]
    assert max(row["largest"] for row in interop.pictures(ours, pipe, rows, interop.PROMPTS[:1])) <= interop.GOAL
    one, other = (ours.generate([Request("a", "", 0, 4, "dpmpp_2m", "trailing", scale, 32, 32)])[0].latent for scale in (2.0, 7.3))
    assert not torch.allclose(one, other, atol=0.1), "the scale would not matter"


@pytest.mark.parametrize(("defaults", "wanted"), [
    (Defaults(24, "dpmpp_2m_sde", "karras"), []), (Defaults(24, "dpmpp_2m", "karras"), ["trailing"]), (Defaults(24, "euler", "karras"), ["karras"])])
def test_the_row_of_the_folder_is_on_the_grid_that_is_written(interop: Any, shared: Path, defaults: Defaults, wanted: list[str]) -> None:
    scheduler = interop.scheduler_of(Pipeline.from_pretrained(shared), defaults)
    assert [asked.spacing for asked, _ in interop.own_setting(defaults, scheduler)] == wanted


def test_a_folder_that_is_ours_alone_is_named(interop: Any, tiny_model: Path, tmp_path: Path) -> None:
    save_info(tmp_path, dataclasses.replace(read_info(tiny_model), process="Straight()", gauge="FLOW"))
    with pytest.raises(SystemExit, match="which diffusers does not have"):
        interop.open_there(tmp_path)


def test_a_difference_is_seen(interop: Any, shared: Path) -> None:
    """Another scale of the latents in their half of the folder alone."""
    ours, pipe = Pipeline.from_pretrained(shared, dtype=torch.float32), interop.open_there(shared)
    pipe.vae.register_to_config(scaling_factor=pipe.vae.config.scaling_factor / 2)
    pipe.tokenizer.backend_tokenizer.normalizer = None
    [row] = interop.pictures(ours, pipe, [(Defaults(2, "dpmpp_2m", "trailing", 1.0), "")], interop.PROMPTS[:1])
    assert row["largest"] > interop.GOAL
    assert interop.token_differences(ours, pipe, ("A RED CUBE",)) == ["A RED CUBE"]


def test_weights_of_two_dtypes_open_without_saying_how(shared: Path) -> None:
    """transformers keeps the dtype of a file unless the config names one, and diffusers makes float32."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(shared, local_files_only=True)
    assert {next(part.parameters()).dtype for part in (pipe.vae, pipe.unet, pipe.text_encoder)} == {torch.float32}


@pytest.mark.parametrize(("text", "kind", "options"), SAMPLERS, ids=[row[0] for row in SAMPLERS])
def test_a_default_sampler_becomes_their_scheduler_and_back(shared: Path, tmp_path: Path, text: str, kind: str, options: dict[str, Any]) -> None:
    import diffusers

    info = dataclasses.replace(read_info(shared), **process("ScaledLinear()"), defaults=Defaults(20, text, "karras"))
    config = scheduler_config(info)
    assert config["_class_name"] == kind
    assert options.items() <= config.items()
    getattr(diffusers, kind).from_config(config).save_pretrained(tmp_path / "scheduler")
    for name, raw in {"model_index.json": {"_class_name": "StableDiffusionPipeline"}, "unet/config.json": {"block_out_channels": [1]},
                      "vae/config.json": {"block_out_channels": [1]}, "text_encoder/config.json": {}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(raw))
    back = foreign_info(tmp_path)
    assert parse(back.defaults.sampler, Sampler) == parse(text, Sampler)  # type: ignore[type-abstract]
    grids = kind not in ("DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler")
    assert (back.defaults.spacing, back.process, back.prediction) == ("karras" if grids else "trailing", "ScaledLinear(0.00085, 0.012, 1000)", "V()")


@pytest.mark.parametrize(("sampler", "spacing", "wanted"), [
    ("euler", "log_snr", ["use_exponential_sigmas"]), ("euler", "karras", ["use_karras_sigmas"]), ("dpmpp_2m", "karras", []),
    ("euler", "leading", []), ("euler", "Karras(rho=5.0)", [])])
def test_grids_are_written_where_they_have_the_same_levels(interop: Any, shared: Path, sampler: str, spacing: str, wanted: list[str]) -> None:
    """The cosine process leaps in its last step: a DPM solver of theirs would visit timestep 998 three times, and fail."""
    ours, asked = Pipeline.from_pretrained(shared), Defaults(10, sampler, spacing, 1.0)
    scheduler = interop.scheduler_of(ours, asked)
    assert [key for key in ("use_karras_sigmas", "use_exponential_sigmas") if scheduler.config[key]] == wanted
    scheduler.set_timesteps(10)
    plan = ours.plan(Request("a cube", "", 0, 10, sampler, spacing if wanted else "trailing", 1.0, 32, 32))
    torch.testing.assert_close(scheduler.sigmas.double(), plan.sigma / plan.alpha, rtol=1e-3, atol=1e-6)


def test_zero_terminal_snr_goes_to_a_scheduler_that_has_it(shared: Path) -> None:
    info = dataclasses.replace(read_info(shared), **process("ZeroTerminal(ScaledLinear())"), defaults=Defaults(20, "heun"))
    assert scheduler_config(info)["_class_name"] == "DPMSolverMultistepScheduler"
    assert scheduler_config(info)["rescale_betas_zero_snr"] is True
