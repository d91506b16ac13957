"""Planted mislabelings are caught, and what is labelled rightly is not accused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from verify_toys import RIGHT, converted, pictures, trained, write

from inkwash.core.coordinate import Coordinate, TimeIndex
from inkwash.core.prediction import Eps, Prediction, V, Velocity
from inkwash.core.schedule import Cosine, Linear, Schedule, Straight
from inkwash.errors import UsageError, VerifyError
from inkwash.io.info import ModelInfo
from inkwash.io.tensors import write_manifest
from inkwash.pipeline import Pipeline
from inkwash.verify.files import faults, scheduler
from inkwash.verify.mislabel import MISLABELS, Mislabel, suited
from inkwash.verify.model import CLAIMS, NEXT, examine, report

SEEN = pictures(64, 7, 16)


@pytest.fixture(scope="module")
def latent() -> Pipeline:
    return trained(latent=True)


@pytest.fixture(scope="module")
def pixels() -> Pipeline:
    return trained(latent=False, steps=100)


@pytest.fixture(scope="module")
def folder(latent: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "model"
    latent.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(SEEN, tmp_path_factory.mktemp("seen"))


def test_a_right_model_holds_every_claim(folder: Path, data: Path) -> None:
    found = report(folder, data=data)
    assert not found.failures, [finding.line() for finding in found.failures]
    assert [finding.claim for finding in found.findings] == [claim.name for claim in CLAIMS]


def test_a_right_pixel_model_holds_every_claim(pixels: Pipeline) -> None:
    found = examine(pixels, pictures(32, 7, 8, 2))
    assert not [finding.line() for finding in found if not finding.passed]
    assert {"prediction", "coordinate", "gauge", "scale", "repeat"} <= {finding.claim for finding in found}


def test_a_right_model_that_has_hardly_learned_is_not_accused() -> None:
    """Its eps is so wrong at the noisy end that its x0 is worse than a guess, and its latents grow out of all bounds."""
    found = examine(trained(True, 150, 3, Linear(), Eps()), SEEN)
    assert not [finding.line() for finding in found if not finding.passed]
    assert "nothing" in next(finding for finding in found if finding.claim == "round trip").measured


@pytest.mark.parametrize("right", RIGHT[::2], ids=str)
def test_right_labels_raise_no_alarm(latent: Pipeline, right: tuple[Schedule, Prediction, Coordinate | None, float]) -> None:
    found = examine(converted(latent, *right), SEEN.first(16))
    assert not [finding.line() for finding in found if not finding.passed]


@pytest.mark.parametrize("fault", MISLABELS, ids=lambda fault: fault.name)
def test_planted_mislabelings_are_caught(fault: Mislabel, folder: Path, pixels: Pipeline, data: Path, tmp_path: Path) -> None:
    if fault.needs == "none":
        pixels.save_pretrained(tmp_path / "model")
    else:
        shutil.copytree(folder, tmp_path / "model")
    fault.plant(tmp_path / "model")
    caught = {finding.claim for claim in fault.claims for finding in report(tmp_path / "model", claim, data).failures}
    assert caught & set(fault.claims)


def test_there_are_at_least_24_of_them_and_a_pixel_model_can_have_most(pixels: Pipeline) -> None:
    assert len({fault.name for fault in MISLABELS}) == len(MISLABELS) >= 24
    assert len(suited(pixels.info)) >= 18


@pytest.mark.parametrize(("labels", "claim"), [
    ((Straight(), Velocity(), None), "gauge"), ((Linear(), Eps(), TimeIndex(Linear())), "coordinate"), ((Linear(), Eps(), None), "prediction")],
    ids=("gauge", "schedule", "prediction"))
def test_other_networks_with_wrong_labels_are_caught(latent: Pipeline, labels: tuple[Schedule, Prediction, Coordinate | None], claim: str) -> None:
    from inkwash.core.level import Gauge

    wrong = converted(latent, *labels)
    if claim == "gauge":
        wrong.denoiser.gauge = Gauge.VP
    elif claim == "coordinate":
        wrong.denoiser.coordinate = TimeIndex(Cosine())
    else:
        wrong.denoiser.prediction = V()
    assert [finding.claim for finding in examine(wrong, SEEN, claim) if not finding.passed] == [claim]


def test_the_first_failure_is_named(folder: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    next(fault for fault in MISLABELS if fault.name == "one bit flipped").plant(tmp_path / "model")
    with pytest.raises(VerifyError, match=r"files fails: .*tensor .*sha256 mismatch") as error:
        report(tmp_path / "model", data=data).require()
    assert error.value.exit_code == 8


def test_a_report_has_a_line_for_each_claim_and_a_next_step_for_each_failure(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    next(fault for fault in MISLABELS if fault.name == "eps at zero terminal SNR").plant(tmp_path / "model")
    found = report(tmp_path / "model")
    lines = found.text().splitlines()
    assert [claim.name for claim in CLAIMS if not any(line.startswith(claim.name) for line in lines)] == []
    assert any(line.startswith("terminal") and "FAIL" in line for line in lines)
    assert any(line.startswith("prediction") and "not asked" in line for line in lines)
    assert all("next: " in finding.note for finding in found.failures)
    assert {finding.claim for finding in found.findings} <= set(NEXT) == {claim.name for claim in CLAIMS}


def test_a_folder_of_diffusers_has_no_hashes_but_must_be_finite(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert faults(tmp_path) == (2, [])
    save_file({"a": torch.full((2,), torch.nan)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert "NaN" in faults(tmp_path)[1][0]


@pytest.mark.parametrize(("process", "differs"), [("ScaledLinear(0.00085, 0.012, 1000)", False), ("Linear()", True)])
def test_a_scheduler_in_the_form_of_diffusers_is_compared_by_its_meaning(tmp_path: Path, process: str, differs: bool) -> None:
    (tmp_path / "scheduler").mkdir()
    raw = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
           "prediction_type": "v_prediction"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(raw))
    write_manifest(tmp_path, {})
    found = scheduler(tmp_path, ModelInfo("toy", process, "V()", codec="pixels"))
    assert [ours != theirs for _, ours, _, theirs in found] == [differs, False]


def test_unknown_claims_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="known: files"):
        report(folder, "colour")


def test_mini_is_what_it_says(mini: str) -> None:
    assert not report(mini, "files").failures
    assert not report(mini, "prediction").failures
