"""Planted mislabelings are caught, and what is labelled rightly is not accused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from verify_toys import converted, pictures, trained, write

from inkwash.core.coordinate import Coordinate, QuarterLogSigma, TimeIndex
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import Cosine, Exponential, Linear, ScaledLinear, Schedule, Shifted, Sigmoid, Straight, ZeroTerminal
from inkwash.errors import UsageError, VerifyError
from inkwash.pipeline import Pipeline
from inkwash.verify.mislabel import MISLABELS, Mislabel, suited
from inkwash.verify.model import CLAIMS, examine, report

SEEN = pictures(64, 7, 16)
RIGHT: tuple[tuple[Schedule, Prediction, Coordinate | None, float], ...] = (
    (Cosine(), V(), None, 1.0), (Cosine(), X0(), None, 1.0), (Cosine(), EDM(), None, 1.0), (Linear(), Eps(), None, 1.0),
    (Linear(), Score(), None, 1.0), (ScaledLinear(), V(), TimeIndex(ScaledLinear()), 1.0), (ZeroTerminal(ScaledLinear()), V(), None, 1.0),
    (Straight(), Velocity(), None, 1.0), (Shifted(Straight()), Velocity(), TimeIndex(Straight(), 1000.0, 0.0), 1.0),
    (Exponential(), EDM(), QuarterLogSigma(), 1.0), (Exponential(), Eps(), None, 1.0), (Sigmoid(), X0(), QuarterLogSigma(), 1.0),
    (Straight(), Velocity(), None, 0.5), (Linear(), Eps(), TimeIndex(Linear()), 2.0),
)


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


@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_right_labels_raise_no_alarm(latent: Pipeline, right: tuple[Schedule, Prediction, Coordinate | None, float]) -> None:
    found = examine(converted(latent, *right), SEEN)
    assert not [finding.line() for finding in found if not finding.passed]


@pytest.mark.parametrize("fault", MISLABELS, ids=lambda fault: fault.name)
def test_planted_mislabelings_are_caught(fault: Mislabel, folder: Path, data: Path, tmp_path: Path) -> None:
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


def test_unknown_claims_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="known: files"):
        report(folder, "colour")


def test_mini_is_what_it_says(mini: str) -> None:
    assert not report(mini, "files").failures
    assert not report(mini, "prediction").failures
