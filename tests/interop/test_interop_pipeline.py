"""A folder with networks of ours in diffusers: its loaders, its steps, our networks, and the same pixels and ids (row L7)."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash.core.coordinate import Angle
from inkwash.core.level import Gauge
from inkwash.core.schedule import Cosine
from inkwash.errors import CheckpointError, UsageError
from inkwash.io.find import MODELS, read_info
from inkwash.io.folder import model_hash, save_info
from inkwash.io.foreign_own import own_index
from inkwash.io.foreign_scheduler import levels_config, scheduler_config
from inkwash.io.tensors import read_manifest
from inkwash.pipeline import Pipeline
from inkwash.request import Request

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

PROMPT = "a small red cube"


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """diffusers copies a folder's code into its cache before it runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        yield


@pytest.fixture(scope="module")
def interop() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("interop")


@pytest.fixture(scope="module")
def there(tiny_model: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_model, trust_remote_code=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_their_pipeline_makes_our_pictures(interop: Any, tiny_model: Path) -> None:
    found = interop.compare(str(tiny_model), (10,), (3.0,), ("dpmpp_2m", "euler"), interop.PROMPTS[:2])
    assert found["parts"] == {"vae": "Autoencoder", "text_encoder": "TextEncoder", "tokenizer": found["parts"]["tokenizer"], "conditioner": "Null",
                              "unet": "UNet", "scheduler": "DDIMScheduler"}
    assert [row["scheduler"] for row in found["pictures"]] == ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"]
    assert found["largest"] <= interop.GOAL
    assert min(row["spread"] for row in found["pictures"]) > 10, "pictures of one colour prove nothing"
    assert found["pictures"][0]["largest_from_our_end"] == found["pictures"][0]["largest"], "DDIM has no signal at its end, as we"
    assert found["texts_with_other_ids"] == []


@pytest.mark.slow
def test_the_embedded_model_opens_as_it_is(interop: Any) -> None:
    found = interop.compare("mini", (10,), (3.0,), ("ddim", "dpmpp_2m"), interop.PROMPTS[:1])
    assert found["largest"] <= interop.GOAL
    assert min(row["spread"] for row in found["pictures"]) > 10
    assert found["texts_with_other_ids"] == []
    files = {path.relative_to(MODELS / "mini").as_posix() for path in (MODELS / "mini").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert set(read_manifest(MODELS / "mini")) == files - {"manifest.json", "README.md"}


def test_a_change_of_a_weight_there_is_seen(interop: Any, tiny_model: Path) -> None:
    ours, pipe = Pipeline.from_pretrained(tiny_model, dtype=torch.float32), interop.open_there(tiny_model)
    pipe.unet.get_parameter("conv_in.weight").data *= 1.5
    [row] = interop.pictures(ours, pipe, interop.own_setting(ours.info.defaults, pipe.scheduler), interop.PROMPTS[:1])
    assert row["largest"] > interop.GOAL


def test_what_diffusers_saves_opens_again(there: Any, latents: torch.Tensor, tmp_path: Path) -> None:
    from inkwash.interop import InkwashPipeline

    there.save_pretrained(tmp_path)
    again = InkwashPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    before, after = (pipe(PROMPT, latents=latents[:1], output_type="pt").images for pipe in (there, again))
    assert torch.equal(before, after)
    assert set(again.components) == {"vae", "text_encoder", "tokenizer", "conditioner", "unet", "scheduler"}
    again.to(torch.bfloat16)
    assert {part.dtype for part in again.components.values() if isinstance(part, torch.nn.Module)} == {torch.bfloat16}
    assert {parameter.dtype for parameter in again.unet.network.parameters()} == {torch.bfloat16}, "the network computes with the moved parameters"
    assert 0 < float((again(PROMPT, latents=latents[:1], output_type="pt").images - before).abs().max()) < 0.2


def test_negative_prompts_and_the_condition_of_none(there: Any, tiny_model: Path, latents: torch.Tensor) -> None:
    ours = Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    asked = Request(PROMPT, "a leather jacket", 5, 4, "ddim", "trailing", 3.0, 32, 32)
    expected = ours.generate([asked])[0].pixels
    made = there(PROMPT, "a leather jacket", latents=ours.program(asked).x[None], output_type="pt").images[0]
    assert expected is not None
    assert float((made - expected.float() / 255).abs().max()) < 2 / 255
    alone, each = there(PROMPT, latents=latents[1:], output_type="pt").images, \
        there([PROMPT, PROMPT], ["a leather jacket", ""], latents=latents, output_type="pt").images
    torch.testing.assert_close(each[1:], alone, atol=1e-4, rtol=0)
    assert float((each[1] - there([PROMPT] * 2, "a leather jacket", latents=latents, output_type="pt").images[1]).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="one for each prompt"):
        there([PROMPT] * 3, ["a leather jacket"])


def test_the_call_has_the_words_of_theirs(there: Any) -> None:
    first, again = (there([PROMPT, "a cat"], num_images_per_prompt=2, generator=torch.Generator().manual_seed(3), output_type="np").images
                    for _ in range(2))
    assert first.shape == (4, 32, 32, 3)
    assert (first == again).all()
    assert there.scheduler.num_inference_steps == 4, "the model's own default"
    assert there(PROMPT, num_inference_steps=2, guidance_scale=1.0).images[0].size == (32, 32)
    assert there(PROMPT, height=64, width=48, num_inference_steps=1, output_type="latent", return_dict=False)[0].shape == (1, 4, 16, 12)
    with pytest.raises(ValueError, match="latents must have the shape"):
        there(PROMPT, latents=torch.zeros(1, 4, 4, 4))


def test_negative_prompts_may_be_a_tuple(there: Any, latents: torch.Tensor) -> None:
    pair = {"prompt": (PROMPT, "a cat"), "latents": latents, "num_inference_steps": 1, "output_type": "latent"}
    assert torch.equal(there(**pair, negative_prompt=("red", "blue")).images, there(**pair, negative_prompt=["red", "blue"]).images)


@pytest.mark.parametrize(("change", "match"), [({"height": 33}, "multiples of 4"), ({"width": 0}, "multiples of 4"), ({"prompt": []}, "no prompt")])
def test_what_it_cannot_make_is_refused_and_not_replaced(there: Any, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        there(**{"prompt": PROMPT, "num_inference_steps": 1, "output_type": "latent", **change})


def test_the_network_is_told_the_level_of_the_scheduler(there: Any) -> None:
    index = torch.tensor([0.0, 400.0, 998.0])
    told = torch.cat([there.noise(time) for time in index])
    torch.testing.assert_close(told.double(), Angle()(Cosine()((index.double() + 1) / 1000)), rtol=1e-3, atol=1e-3)
    assert float(there.noise(torch.tensor(999))) == 1000.0
    low, high = (Cosine().lam(torch.tensor(entry / 1000, dtype=torch.float64)) for entry in (401, 402))
    assert float(there.noise(torch.tensor(400.25))) == pytest.approx(float(Angle()(Gauge.VP.split(0.75 * low + 0.25 * high))), abs=1e-2)


def test_a_continuous_process_is_a_table_of_its_levels(tiny_model: Path) -> None:
    config = levels_config(read_info(tiny_model))
    scheduler = getattr(diffusers, config.pop("_class_name")).from_config(config)
    level = Cosine()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), level.alpha**2, rtol=1e-4, atol=1e-30)
    assert scheduler_config(read_info(tiny_model)) == {}, "its network does not count timesteps"


def test_code_of_the_folder_runs_only_when_it_is_trusted(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        diffusers.DiffusionPipeline.from_pretrained(tiny_model, local_files_only=True)


def test_mathematics_that_no_scheduler_has_is_named(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    save_info(tmp_path / "model", dataclasses.replace(read_info(tiny_model), prediction="Velocity()"))
    with pytest.raises(CheckpointError, match=r"no scheduler of diffusers has Cosine\(\) with Velocity\(\)"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True, local_files_only=True)


def test_other_models_stay_ours_alone(tiny_model: Path) -> None:
    info = read_info(tiny_model)
    configs = {path.parent.name: json.loads(path.read_text("utf-8")) for path in tiny_model.glob("*/config.json")}
    assert own_index(info, configs, True)["unet"] == ["inkwash.interop.parts", "UNet"]
    student = {**configs, "unet": {**configs["unet"], "config": configs["unet"]["config"].replace("guidance=False", "guidance=True")}}
    assert student != configs
    empty = {name: raw for name, raw in configs.items() if name != "conditioner"}
    assert [own_index(info, other, True) for other in (student, empty)] == [{}, {}]
    assert own_index(dataclasses.replace(info, gauge="FLOW"), configs, True) == {}


def test_a_folder_from_before_is_the_same_model_here(tiny_model: Path, tmp_path: Path) -> None:
    """Its index named our classes, and it had no file of code."""
    old = tmp_path / "model"
    shutil.copytree(tiny_model, old)
    (old / "inkwash_pipeline.py").unlink()
    (old / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline", "unet": ["inkwash", "UNet"]}))
    pipe = Pipeline.from_pretrained(old)
    assert pipe.hash == model_hash(tiny_model)
    pipe.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "model_index.json").read_bytes() == (tiny_model / "model_index.json").read_bytes()


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import inkwash.interop

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -e .\.\[interop\]"):
        importlib.reload(inkwash.interop)


def test_nothing_else_imports_diffusers() -> None:
    code = "import sys, inkwash, inkwash.pipeline; sys.exit(bool({'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
