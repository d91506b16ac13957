"""Runs that start from a finished model, and text encoders that are trained along at a rate of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import toy
from torch import Tensor

from inkwash.errors import CheckpointError, UsageError
from inkwash.io.folder import load_part
from inkwash.train.config import OptimizerConfig
from inkwash.train.optim import Optimizers, by_scale
from inkwash.train.run import train

TEXT = ("UNetConfig(in_channels=3, out_channels=3, widths=(8,), attention=(False,), cross=(True,), mid_attention=False, text_dim=16, "
        "pooled_dim=16, head_dim=8)")
ENCODER = "TextEncoderConfig(vocab=300, width=16, layers=1, heads=2, max_tokens=12)"
SMALL: dict[str, Any] = {"network": TEXT, "steps": 4}


def weights(run: Path, part: str) -> dict[str, Tensor]:
    return load_part(run / "model", part).state_dict()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return max(float((before[name] - after[name]).abs().max()) for name in before)


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run with a text encoder of its own."""
    folder = tmp_path_factory.mktemp("start") / "first"
    train(toy(**SMALL, text_network=ENCODER, vocab=300), [data], folder, quiet=True)
    return folder


def test_a_run_begins_with_the_weights_and_the_words_of_its_start(first: Path, data: Path, tmp_path: Path) -> None:
    """At a rate of next to nothing the run ends where it began: denoiser, null condition, text encoder, tokenizer."""
    train(toy(**SMALL, start=str(first / "model"), optimizer={"lr": 1e-12}), [data], tmp_path / "next", quiet=True)
    for part in ("unet", "conditioner", "text_encoder"):
        assert moved(weights(first, part), weights(tmp_path / "next", part)) < 1e-8
    words = Path("model") / "tokenizer" / "tokenizer.json"
    assert (tmp_path / "next" / words).read_text() == (first / words).read_text()


def test_a_finished_encoder_stands_still_unless_it_is_trained_along(first: Path, data: Path, tmp_path: Path) -> None:
    begin = weights(first, "text_encoder")
    start = {"start": str(first / "model")}
    train(toy(**SMALL, **start), [data], tmp_path / "still", quiet=True)
    assert moved(begin, weights(tmp_path / "still", "text_encoder")) == 0
    assert moved(weights(first, "unet"), weights(tmp_path / "still", "unet")) > 1e-4
    along = toy(**SMALL, **start, train_text=True, optimizer={"lr": 0.01, "scale": {"^text": 0.1}})
    straight = train(along, [data], tmp_path / "along", quiet=True)
    assert 1e-5 < moved(begin, weights(tmp_path / "along", "text_encoder")) < 0.1 * 0.01 * 4 * 1.5
    train(along.model_copy(update={"steps": 2}), [data], tmp_path / "resumed", quiet=True)
    assert train(along, [data], tmp_path / "resumed", quiet=True) == straight


@pytest.mark.parametrize(("change", "what"), [
    ({"prediction": "X0()"}, r"prediction of the recipe is X0\(\)"), ({"process": "DiscreteCosine()"}, "process of the recipe"),
    ({"network": TEXT.replace("(8,)", "(16,)")}, "network of the recipe"), ({"sigma_data": 0.5}, "sigma_data of the recipe is 0.5"),
])
def test_a_start_of_another_kind_is_refused(first: Path, data: Path, tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        train(toy(**{**SMALL, "start": str(first / "model"), **change}), [data], tmp_path / "run", quiet=True)
    assert caught.value.code == "bad_start"


def test_a_start_that_is_no_model_lists_the_known_ones(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="known: mini"):
        train(toy(**SMALL, start="minni"), [data], tmp_path / "run", quiet=True)


def test_a_text_encoder_that_is_to_be_trained_along_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--set text=DIR") as caught:
        train(toy(**SMALL, train_text=True), [data], tmp_path / "run", quiet=True)
    assert caught.value.code == "bad_start"


@pytest.mark.parametrize(("change", "what"), [
    ({"start": "mini", "text": "somewhere"}, "leave out autoencoder, text"),
    ({"train_text": True, "text_network": "TextEncoderConfig(vocab=300, width=8, layers=1, heads=1)"}, "leave out one of both")])
def test_contradictions_are_told(change: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        toy(**SMALL, **change)


def test_rates_are_scaled_by_the_first_pattern_that_is_found() -> None:
    module = torch.nn.ModuleDict({"text": torch.nn.Linear(2, 2), "network": torch.nn.Linear(2, 2)})
    scales = {"text.*bias": 0.5, "^text": 0.1}
    groups = {scale: set(named) for scale, named in by_scale(dict(module.named_parameters()), scales)}
    assert groups == {0.1: {"text.weight"}, 0.5: {"text.bias"}, 1.0: {"network.weight", "network.bias"}}
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizers = Optimizers(module, OptimizerConfig(lr=0.01, scale=scales))
    (module["text"](torch.ones(1, 2)).sum() + module["network"](torch.ones(1, 2)).sum()).backward()
    optimizers.step(1.0)
    steps = {name: float((parameter.detach() - before[name]).abs().max()) for name, parameter in module.named_parameters()}
    assert steps == pytest.approx({"text.weight": 0.001, "text.bias": 0.005, "network.weight": 0.01, "network.bias": 0.01}, rel=1e-3)
