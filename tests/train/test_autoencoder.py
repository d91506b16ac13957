"""What an autoencoder is trained by: distances in activations, and a patch discriminator that is trained along."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_data, run
from torch import Tensor

from inkwash.errors import CheckpointError, UsageError
from inkwash.io.folder import save_part
from inkwash.nn import AutoencoderKLConfig, ClipConfig, ImageTowerConfig, TextEncoderConfig
from inkwash.nn.features import FeatureNetConfig
from inkwash.nn.patch_discriminator import PatchDiscriminatorConfig, fooled, hinge
from inkwash.train import checkpoint
from inkwash.train.autoencoder import JUDGE, ROLE, AutoencoderTask
from inkwash.train.config import RunConfig, validate
from inkwash.train.distributed import Group
from inkwash.train.log import read_log
from inkwash.train.perceptual import Perceptual, load_perceptual
from inkwash.train.run import _setting, train
from inkwash.train.task import Draw

SMALL: dict[str, Any] = {
    "task": "autoencoder", "network": "AutoencoderConfig(latent_channels=2, widths=(8,), encoder_blocks=(0,), decoder_blocks=(0,), patch=2)",
    "steps": 6, "batch": 4, "precision": "float32", "log_every": 1, "checkpoint_every": 2, "validate_every": 3, "export_dtype": "float32",
    "optimizer": {"lr": 0.01}, "data": {"size": 16, "validation": 2}, "ema_half_life": 32}
GAME = {"adversarial": 0.1, "discriminator": "PatchDiscriminatorConfig(widths=(4, 8, 8))"}


def config(**changes: Any) -> RunConfig:
    return validate({**SMALL, **changes}, "small")


def losses(out: Path) -> list[float]:
    return [event["loss"] for event in read_log(out) if event["event"] == "train"]


@pytest.mark.parametrize(("widths", "reach"), [((4, 4), 16), ((4, 4, 4), 34), ((4, 4, 4, 4), 70)])
def test_a_logit_sees_its_patch_and_nothing_else(widths: tuple[int, ...], reach: int) -> None:
    network = PatchDiscriminatorConfig(widths=widths).build()
    image = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = network(image)
    assert logits.shape[-1] == 128 // 2 ** (len(widths) - 1) - 2
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0).nonzero()
    assert network.config.reach == reach
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [reach, reach]


def test_an_image_without_a_patch_is_refused() -> None:
    network = PatchDiscriminatorConfig(widths=(4, 4, 4)).build()
    assert network(torch.zeros(1, 3, 12, 12)).shape == (1, 1, 1, 1)
    with pytest.raises(UsageError, match="16 x 11 pixels; both sides must be at least 12") as caught:
        network(torch.zeros(1, 3, 11, 16))
    assert caught.value.code == "bad_size"


def test_the_game_has_the_values_of_the_paper() -> None:
    real, made = torch.tensor([[[[2.0, 0.5]]], [[[-1.0, 1.0]]]]), torch.tensor([[[[-2.0, 0.0]]], [[[1.0, -1.0]]]])
    assert hinge(real, made).tolist() == [(0.0 + 0.5 + 0.0 + 1.0) / 2, (2.0 + 0.0 + 2.0 + 0.0) / 2]
    assert fooled(made).tolist() == [1.0, 0.0]


NETWORKS = {"features": lambda: FeatureNetConfig(size=16, patch=2, widths=(8, 12), blocks=(1, 1), features=(4, 4)).build(),
            "tower": lambda: ImageTowerConfig(widths=(8, 12), blocks=(1, 1), out_dim=8, patch=2).build()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_perceptual_distance_is_what_its_formula_says(name: str) -> None:
    torch.manual_seed(1)
    network = NETWORKS[name]()
    distance = Perceptual(network)
    x, y = torch.rand(2, 3, 3, 16, 24) * 2 - 1
    found = distance(x, y)
    for i in range(3):
        by_level = []
        for a, b in zip(network.maps(x[i : i + 1]), network.maps(y[i : i + 1])):
            assert a.shape[2:] == (16 // (16 // a.shape[2]), 24 // (16 // a.shape[2]))
            spots = [(a[0, :, r, c], b[0, :, r, c]) for r in range(a.shape[2]) for c in range(a.shape[3])]
            by_level.append(sum(float(((u / u.norm() - v / v.norm()) ** 2).sum()) for u, v in spots) / len(spots))
        assert float(found[i]) == pytest.approx(sum(by_level) / len(by_level), rel=1e-4)
    torch.testing.assert_close(distance(y, x), found)
    assert distance(x, x).tolist() == [0.0, 0.0, 0.0]
    assert bool(((found > 0) & (found <= 4)).all())
    with pytest.raises(UsageError, match="multiples of 4"):
        distance(x[..., :18], y[..., :18])


def test_maps_are_what_the_features_are_pooled_from() -> None:
    torch.manual_seed(2)
    network = FeatureNetConfig(size=16, patch=2, widths=(8, 12), blocks=(1, 1), features=(4, 5)).build()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    pooled = [torch.nn.functional.silu(head(h)).mean((2, 3)) for head, h in zip(network.heads, network.maps(x))]
    assert torch.equal(network.raw(x), torch.cat(pooled, 1))
    tower = ImageTowerConfig(widths=(8, 12), blocks=(1, 1), out_dim=8, patch=2).build()
    torch.testing.assert_close(tower.head(torch.nn.functional.silu(tower.maps(x)[-1]).mean((2, 3))), tower(x))


def test_the_distance_teaches_the_second_picture_only() -> None:
    torch.manual_seed(3)
    distance = Perceptual(NETWORKS["features"]())
    x, y = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    distance(x, y).sum().backward()
    assert x.grad is None
    assert y.grad is not None
    assert bool(y.grad.any())
    assert all(parameter.grad is None for parameter in distance.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_is_at_no_distance_from_itself_in_training_either(name: str) -> None:
    """Kernels of training must not see one side alone: they round differently."""
    torch.manual_seed(5)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        found = Perceptual(NETWORKS[name]())(x, x.clone().requires_grad_())
    assert found.tolist() == [0.0, 0.0]
    found.sum().backward()


def test_a_distance_is_read_from_runs_of_both_kinds(tmp_path: Path) -> None:
    torch.manual_seed(4)
    save_part(tmp_path / "one" / "model", "extractor", NETWORKS["features"]())
    text = TextEncoderConfig(vocab=50, width=16, layers=1, heads=2, max_tokens=8)
    clip = ClipConfig(text, ImageTowerConfig(widths=(8,), blocks=(0,), out_dim=8), shared_dim=8)
    save_part(tmp_path / "two", "clip", clip.build())
    assert load_perceptual(tmp_path / "one").factor == 4
    assert load_perceptual(tmp_path / "two").factor == 4
    assert load_perceptual(None).factor == 16
    (tmp_path / "three").mkdir()
    with pytest.raises(CheckpointError, match="neither a feature extractor nor the image tower") as caught:
        load_perceptual(tmp_path / "three")
    assert caught.value.code == "no_part"


def task_of(data: Path, folder: Path, **changes: Any) -> AutoencoderTask:
    made = config(**changes)
    torch.manual_seed(0)
    return AutoencoderTask(made, _setting(made, [data], folder, Group(alone=True), None, None, print))  # type: ignore[arg-type]


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_each_side_of_the_game_moves_its_own_network_only(data: Path, tmp_path: Path) -> None:
    task = task_of(data, tmp_path, **GAME)
    assert list(task.roles) == [ROLE, JUDGE]
    rounds = task.losses(task.batch(0), Draw(0, 0, 4))
    first = next(rounds)
    assert first.role == ROLE
    first.value.mean().backward()
    assert gradients(task.roles[ROLE])
    assert not gradients(task.roles[JUDGE])
    task.roles[ROLE].zero_grad(set_to_none=True)
    second = next(rounds)
    assert second.role == JUDGE
    second.value.mean().backward()
    assert not gradients(task.roles[ROLE])
    assert gradients(task.roles[JUDGE])
    assert next(rounds, None) is None
    task.close()


def test_the_game_begins_when_it_is_told_to(data: Path, tmp_path: Path) -> None:
    plain, late = tmp_path / "plain", tmp_path / "late"
    train(config(steps=4, keep=5), [data], plain, quiet=True)
    train(config(steps=4, keep=5, adversarial_start=2, **GAME), [data], late, quiet=True)
    assert losses(late)[:2] == losses(plain)[:2]
    assert losses(late)[2] != losses(plain)[2]
    told = [set(event) for event in read_log(late) if event["event"] == "train"]
    new = {"loss_discriminator", "grad_norm_discriminator", "real", "made", "fooled"}
    assert [new <= names for names in told] == [False, False, True, True]
    assert {"loss", "grad_norm"} <= told[3]
    two, four = (checkpoint.load(checkpoint.path_of(late, step)).tensors["weights"] for step in (2, 4))
    assert {name.partition("/")[0] for name in two} == {ROLE, JUDGE}
    moved = {name.partition("/")[0] for name in two if not torch.equal(two[name], four[name])}
    assert moved == {ROLE, JUDGE}


def test_the_game_goes_on_after_a_stop_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    both = {**GAME, "perceptual": 0.5, "adversarial_start": 1}
    whole = train(config(**both), [data], straight, quiet=True)
    train(config(**{**both, "steps": 4}), [data], stopped, quiet=True)
    assert train(config(**both), [data], stopped, quiet=True) == whole
    validation = [event for event in read_log(straight) if event["event"] == "validation"]
    assert validation[-1]["perceptual"] > 0
    assert not (straight / "model" / "discriminator").exists(), "what ships is the autoencoder"


@pytest.mark.parametrize("split", [{"accumulate": 2}, {"parallel": "ddp"}, {"parallel": "fsdp"}], ids=["accumulated", "ddp", "fsdp"])
def test_how_a_batch_is_split_changes_nothing(tmp_path: Path, command: Callable[..., list[str]], split: dict[str, Any]) -> None:
    changes = {"steps": 4, "perceptual": 0.5, "validate_every": 4, **GAME}
    recipe = tmp_path / "small.yaml"
    recipe.write_text("\n".join(f"{key}: {value}" for key, value in SMALL.items()))
    alone = command(tmp_path / "one", recipe=str(recipe), **changes)
    assert run(alone).returncode == 0
    other = command(tmp_path / "two", recipe=str(recipe), **changes, **split)
    found = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *other] if "parallel" in split else other)
    assert found.returncode == 0, found.stderr
    for name in ("loss", "loss_discriminator"):
        one, two = ([event[name] for event in read_log(tmp_path / folder) if event["event"] == "train"] for folder in ("one", "two"))
        assert len(one) == 4
        assert two == pytest.approx(one, rel=1e-3)


def test_a_perceptual_loss_lowers_the_perceptual_distance(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", count=40, size=32)
    found = {}
    for weight in (1e-6, 1.0):
        out = tmp_path / str(weight)
        train(config(steps=60, l1=0, edges=0, perceptual=weight, validate_every=60, data={"size": 32, "validation": 8}), [data], out, quiet=True)
        found[weight] = [event["perceptual"] for event in read_log(out) if event["event"] == "validation"][-1]
    assert found[1.0] < 0.8 * found[1e-6]


@pytest.mark.parametrize(("changes", "message"), [
    ({"perceptual_from": "somewhere"}, "perceptual_from has no effect without perceptual"),
    ({"adversarial_start": 3}, "adversarial_start has no effect without adversarial"),
    ({"discriminator": GAME["discriminator"]}, "discriminator has no effect without adversarial"),
    ({"adversarial": 1, "discriminator": SMALL["network"]}, "discriminator must be a PatchDiscriminatorConfig"),
    ({"adversarial": 1, "adversarial_start": 6}, "adversarial_start 6 is not before the last of 6 steps"),
    ({"adversarial": -1}, "adversarial"),
])
def test_settings_that_would_do_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        config(**changes)
    assert caught.value.code == "bad_recipe"


def test_diffusers_autoencoder_can_play_too(data: Path, tmp_path: Path) -> None:
    network = repr(AutoencoderKLConfig(widths=(8,), blocks=1, groups=4))
    train(config(network=network, steps=2, perceptual=0.5, validate_every=0, **GAME), [data], tmp_path / "run", quiet=True)
    assert len(losses(tmp_path / "run")) == 2
