"""Runs on images of several shapes: aspects are kept, batches have one shape, and a resumed run has the bits of one that was not stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import toy

from inkwash.data.buckets import shapes
from inkwash.data.source import open_source
from inkwash.errors import UsageError
from inkwash.io.folder import load_part
from inkwash.train import checkpoint
from inkwash.train.config import RunConfig, validate
from inkwash.train.log import read_log
from inkwash.train.run import train
from inkwash.train.setting import Setting

BUCKETS: dict[str, Any] = {"size": 16, "mode": "bucket", "step": 4, "ratio": 2.0}
SIZES = [(32, 16), (16, 32), (24, 24), (30, 20)]                                        # width, height


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of each of four shapes; red grows to the right and green downwards, so that a crop can be seen."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(32):
        width, height = SIZES[number % 4]
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = np.linspace(0, 250, width)[None], np.linspace(0, 250, height)[:, None]
        pixels[..., 2] = number * 7
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a picture of {width} by {height}")
    return folder


def autoencoder(**changes: Any) -> RunConfig:
    raw: dict[str, Any] = {
        "task": "autoencoder", "steps": 6, "batch": 4, "precision": "float32", "log_every": 1, "checkpoint_every": 2, "validate_every": 3,
        "network": "AutoencoderConfig(latent_channels=2, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1, 1))",
        "export_dtype": "float32", "data": {**BUCKETS, "validation": 2}}
    return validate({**raw, **changes}, "toy")


def denoiser(**changes: Any) -> RunConfig:
    network = ("UNetConfig(in_channels=3, out_channels=3, widths=(8, 8), attention=(False, True), cross=(False, True), mid_attention=False, "
               "text_dim=8, pooled_dim=8, head_dim=8)")
    return toy(**{"data": BUCKETS, "network": network,
                  "text_network": "TextEncoderConfig(vocab=300, width=8, layers=1, heads=2, max_tokens=12)", "vocab": 300, **changes})


def test_every_batch_has_one_shape_and_keeps_the_aspect(mixed: Path, tmp_path: Path) -> None:
    config = denoiser()
    setting = Setting(open_source([str(mixed)]), None, tmp_path / "cache", tmp_path, torch.device("cpu"))
    among = shapes(16, 4, 2.0)
    aspects = np.log([width / height for height, width in among])
    with setting.loader(config, setting.train, "train", flip=False) as loader:
        seen = set()
        for step in range(8):
            batch = loader.batch(step)
            height, width = batch.images.shape[-2:]
            assert (height, width) in among
            for image, index in zip(batch.images, batch.index.tolist(), strict=True):
                off = abs(np.log(width / height) - np.log(SIZES[index % 4][0] / SIZES[index % 4][1]))
                assert off <= np.diff(aspects).max() / 2 + 1e-9
                shown = [int(image[channel].max()) - int(image[channel].min()) for channel in (0, 1)]
                assert min(shown) / 250 > np.exp(-off) - 0.12                           # cropped by what the shapes differ, not to a square
            seen.update(batch.index.tolist())
        assert seen == set(range(32))


@pytest.mark.parametrize(("config", "cache"), [(autoencoder, True), (denoiser, True), (denoiser, False)], ids=["autoencoder", "kept", "denoiser"])
def test_resuming_gives_the_same_bits(config: Any, cache: bool, mixed: Path, tmp_path: Path) -> None:
    def data() -> dict[str, Any]:
        return {**BUCKETS, "cache": cache, "validation": 2}

    whole = train(config(data=data()), [mixed], tmp_path / "whole", quiet=True)
    train(config(data=data(), steps=4), [mixed], tmp_path / "stopped", quiet=True)
    assert checkpoint.steps_in(tmp_path / "stopped") == [2, 4]
    assert train(config(data=data()), [mixed], tmp_path / "stopped", quiet=True) == whole
    assert all(np.isfinite(event["loss"]) for event in read_log(tmp_path / "whole") if event["event"] == "train")


def test_a_denoiser_on_latents_takes_buckets(mixed: Path, tmp_path: Path) -> None:
    train(autoencoder(), [mixed], tmp_path / "ae", quiet=True)
    network = "UNetConfig(in_channels=2, out_channels=2, widths=(8,), attention=(False,), cross=(False,), mid_attention=False)"
    result = train(denoiser(network=network, text_network=None, autoencoder=str(tmp_path / "ae")), [mixed], tmp_path / "dn", quiet=True)
    assert result.step == 6
    assert load_part(tmp_path / "dn" / "model", "vae") is not None


def test_other_buckets_are_other_data(mixed: Path, tmp_path: Path) -> None:
    train(denoiser(steps=4), [mixed], tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="ratio"):
        train(denoiser(data={**BUCKETS, "ratio": 1.5}), [mixed], tmp_path / "run", quiet=True)


@pytest.mark.parametrize(("data", "message"), [
    ({**BUCKETS, "step": 5}, "multiple of data.step 5"), ({**BUCKETS, "ratio": 0.5}, "ratio"), ({"size": 16, "step": 8}, "no effect"),
    ({"size": 16, "ratio": 3.0}, "no effect"), ({**BUCKETS, "step": 0}, "step"),
])
def test_impossible_settings_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        denoiser(data={"mode": "crop", **data})


def test_buckets_are_for_runs_that_can_use_them() -> None:
    raw = {"task": "classifier", "steps": 1, "process": "Cosine()", "classes": ["red", "blue"], "data": BUCKETS,
           "network": "ClassifierConfig(in_channels=3, widths=(8,), attention=(False,))"}
    with pytest.raises(UsageError, match="autoencoder and denoiser"):
        validate(raw, "toy")


def test_shapes_that_a_network_cannot_take_are_refused_before_the_first_step(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a multiple of 2, .*set data.step=2"):
        train(denoiser(data={**BUCKETS, "step": 1}), [mixed], tmp_path / "dn", quiet=True)
    with pytest.raises(UsageError, match="must be a multiple of 4"):
        train(autoencoder(data={**BUCKETS, "step": 1}), [mixed], tmp_path / "ae", quiet=True)
