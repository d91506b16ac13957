"""The benchmarks that train peers: a stopped training ends with the same weights, sampling knows their networks, and a tiny comparison runs whole."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash.codec import Pixels
from inkwash.data.heldout import rank
from inkwash.io.find import find_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mini_peers
import mini_peers_data
import mini_peers_measure
import mini_peers_ours
import mini_peers_recipes
import peers
import quality_measure
import quality_sample
import quality_train
from quality_peers import Recipe, unconditional, warmup

sys.path.pop(0)


def ticks(seconds: float) -> Callable[[], float]:
    """A clock by which every step takes `seconds`."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now

    return clock


def toy() -> Recipe:
    network = nn.Conv2d(3, 3, 3, padding=1)

    def loss(x0: Tensor) -> Tensor:
        return (network(x0 + torch.randn_like(x0)) - x0).square().mean()  # type: ignore[no-any-return]

    return Recipe(network, loss, 2, 2, 1e-2, (0.9, 0.99), 0.0, lambda step, spent: 1.0 - spent / 2, lambda step: 0.5 if step % 2 else None)


def drawn(recipe: Recipe) -> quality_train.Examples:
    return lambda number: (torch.full((recipe.batch, 3, 8, 8), float(number) / 10) + torch.rand(1),)


def test_a_peer_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_train, "SAVE_SECONDS", 0.0)

    def stopping(recipe: Recipe) -> quality_train.Examples:
        whole = drawn(recipe)

        def examples(number: int) -> tuple[Tensor, ...]:
            if number == 2 * 3:
                raise KeyboardInterrupt
            return whole(number)

        return examples

    for name in "ab":
        (tmp_path / name).mkdir()
    quality_train.train("toy", toy, drawn, tmp_path / "a", [0.5, 1.0], ticks(10.0))
    with pytest.raises(KeyboardInterrupt):
        quality_train.train("toy", toy, stopping, tmp_path / "b", [0.5, 1.0], ticks(10.0))
    quality_train.train("toy", toy, drawn, tmp_path / "b", [0.5, 1.0], ticks(10.0))
    for name in ("toy-0.5", "toy-1", "toy.last-1"):
        one, other = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in "ab")
        assert all(torch.equal(one[key], other[key]) for key in one)
    facts = quality_train.about(tmp_path / "b" / "toy-1.safetensors")
    assert facts == {"step": "6", "seconds": "60.0", "images": "24"}
    assert not torch.equal(load_file(tmp_path / "a" / "toy-0.5.safetensors")["weight"], load_file(tmp_path / "a" / "toy-1.safetensors")["weight"])


def test_the_curve_of_a_budget_or_its_end_alone_are_measured(tmp_path: Path) -> None:
    for name, minutes in (("diffusers", 5), ("diffusers", 36), ("diffusers.last", 36), ("lucidrains", 36)):
        save_file({"w": torch.zeros(1)}, tmp_path / f"{name}-{minutes}.safetensors", {"seconds": f"{60 * minutes}", "images": "7", "step": "1"})
    save_file({"w": torch.zeros(1)}, tmp_path / "diffusers-state.safetensors")
    found = [(entry.name, entry.minutes) for entry in quality_measure.entries(tmp_path)]
    assert found == [("diffusers", 5.0), ("diffusers", 36.0), ("diffusers.last", 36.0), ("lucidrains", 36.0)]
    assert [(entry.name, entry.minutes) for entry in quality_measure.entries(tmp_path, True)] == found[1:]


@pytest.mark.skipif(peers.lucidrains() is None, reason="denoising-diffusion-pytorch is not installed")
def test_lucidrains_network_in_bfloat16_is_the_one_that_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = peers.lucidrains().Unet(dim=16, dim_mults=(1, 2), channels=8)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = peers.lucidrains().Unet(dim=16, dim_mults=(1, 2), channels=8)
    model = quality_sample.of_lucidrains(tmp_path / "weights.safetensors", other, Pixels(), 16)
    x = torch.randn(2, 8, 16, 16)
    index = torch.tensor([3.0, 640.0])
    with torch.no_grad():
        expected = network(x, index)
        found = model.denoiser.network(x.to(torch.bfloat16), index, {}).float()
    assert float((found - expected).std() / expected.std()) < 0.03


def test_the_warm_up_ends_after_500_steps_or_a_twentieth_of_the_budget() -> None:
    assert warmup(249, 0.001) == 0.5
    assert warmup(0, 0.025) == 0.5
    assert warmup(600, 0.001) == warmup(3, 0.05) == 1.0


@pytest.mark.skipif(peers.diffusers() is None, reason="diffusers is not installed")
def test_our_form_of_the_peers_networks_is_the_same_function() -> None:
    torch.manual_seed(0)
    widths = (32, 32, 64, 64, 64, 64)
    for theirs, config, told in ((mini_peers_recipes.pixels_of_diffusers(widths), mini_peers_recipes.same_pixels(widths), ()),
                                 (peers.their_unet(peers.MINI), mini_peers_recipes.LATENTS, (torch.randn(1, 5, 192),))):
        ours = config.build()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(1, config.in_channels, 32, 32)
        with torch.no_grad():
            expected = theirs(x, torch.tensor([500]), *told).sample
            found = ours(x, torch.tensor([500.0]), dict(zip(("tokens",), told)))
        assert float((found - expected).abs().max()) < 1e-5 < float(expected.std())
    with torch.device("meta"):
        shapes = [{key: value.shape for key, value in network.state_dict().items()}
                  for network in (mini_peers_recipes.pixels_of_diffusers(), mini_peers_recipes.same_pixels().build())]
    assert shapes[0] == shapes[1]


def record(folder: Path, rate: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps({"event": "train", "step": step, "samples_per_sec": value}) + "\n"
                                              for step, value in ((8, 1.0), (24, rate))))


def test_ours_trains_as_long_as_its_share_and_begins_a_stopped_stage_again(tmp_path: Path) -> None:
    told: list[list[str]] = []

    def run(words: list[str]) -> None:
        told.append(words)
        out = Path(words[words.index("--out") + 1])
        record(out, 640.0)
        if len(told) == 4:
            raise KeyboardInterrupt

    def train() -> None:
        mini_peers_ours.train(tmp_path, 10.0, ["--data", "scenes:40"], {}, mini_peers_ours.FROM_NOTHING, run)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert mini_peers_ours.spent(tmp_path, mini_peers_ours.FROM_NOTHING) == {}
    train()
    assert [words[1] for words in told] == ["mini-contrastive"] * 2 + ["mini-autoencoder"] * 4 + ["mini-denoiser"] * 2
    steps = {words[1]: next(int(word[6:]) for word in words if word.startswith("steps=")) for words in told}
    assert 1720 < steps["mini-denoiser"] <= 1725                                       # (0.6 x 600 s - 15 s) x 640 / 128
    assert f"autoencoder={tmp_path / 'autoencoder'}" in told[-1]
    assert f"text={tmp_path / 'text'}" in told[-1]
    assert not [word for word in told[-3] if word.startswith("text=")]
    found = mini_peers_ours.spent(tmp_path, mini_peers_ours.FROM_NOTHING)
    assert found["denoiser"]["images"] == 128 * steps["mini-denoiser"]


def test_a_library_that_is_not_installed_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "diffusers", lambda: None)
    assert not mini_peers.installed("diffusers-latents")
    assert "not installed" in capsys.readouterr().err
    assert mini_peers.installed("inkwash")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mini_peers_data.Data:
    """A few scenes, two contestants: a narrow network of diffusers on pixels, and the embedded model as if we had trained it."""
    widths = (32,) * 6
    small = functools.partial(mini_peers_recipes.pixels_of_diffusers, widths)
    table = {"inkwash": mini_peers_recipes.CONTESTANTS["inkwash"]._replace(group="latents"),
             "diffusers": mini_peers_recipes.CONTESTANTS["diffusers"]._replace(recipe=lambda: unconditional(small(), 2))}
    for module in (mini_peers, mini_peers_measure):
        monkeypatch.setattr(module, "CONTESTANTS", table)
    monkeypatch.setattr(mini_peers_measure, "same_pixels", functools.partial(mini_peers_recipes.same_pixels, widths))
    whole = mini_peers_measure.features
    monkeypatch.setattr(mini_peers_measure, "features", lambda images, path: (whole(images, path)[0][:, ::32].contiguous(), "16 of them"))
    monkeypatch.setattr(mini_peers_measure, "GUIDANCES", (1.0, 2.0))
    monkeypatch.setattr(mini_peers_measure, "CHOICE", 8)
    home = tmp_path / "inkwash-1" / "denoiser"
    home.mkdir(parents=True)
    (home / "model").symlink_to(find_model("mini"), target_is_directory=True)
    (home / mini_peers_ours.SECONDS).write_text(json.dumps({"seconds": 59.0, "steps": 10, "images": 640}))
    return mini_peers_data.Data(("scenes:140,objects=1,material=matte,light=soft",), 14, tmp_path / "cache", "mini")


@pytest.mark.skipif(peers.diffusers() is None, reason="diffusers is not installed")
def test_a_tiny_comparison(tiny: mini_peers_data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, apart = tiny.split()
    assert len(apart) == 14
    assert max(rank(apart.key(i)) for i in range(14)) < min(rank(training.key(i)) for i in range(len(training)))
    with monkeypatch.context() as patched:
        patched.setattr(mini_peers.time, "perf_counter", ticks(30.0))
        mini_peers.train("diffusers", tiny, tmp_path, 1.0)
    way = quality_sample.Way("ddim", 2)
    mini_peers.measure(tiny, tmp_path, 12, way, 1.0, tmp_path / "found", ["a note"])
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    rows = {row["name"]: row for row in found["rows"] if row["captions"] != "training"}
    assert [(row["name"], row["captions"]) for row in found["rows"]] == [("inkwash", "held-out"), ("inkwash", "training"), ("diffusers", "none")]
    assert (rows["diffusers"]["steps"], rows["diffusers"]["images_seen"], rows["diffusers"]["guidance"]) == (2, 4, 1.0)
    assert rows["diffusers"]["compared"].count("weights") == 2
    assert rows["inkwash"]["minutes"] == 0.98
    assert max(row["fd_at_n"]["value"] for row in (found["real"], rows["inkwash"])) < rows["diffusers"]["fd_at_n"]["value"] / 2
    assert (found["held_out"], found["num"], rows["inkwash"]["precision"]["num"]) == (14, 12, 12)
    assert found["ratios"] == {}                                                       # they stand in different groups
    both = mini_peers_measure.ratio(list(rows.values()))
    assert both["fd_at_n"] == round(rows["inkwash"]["fd_at_n"]["value"] / rows["diffusers"]["fd_at_n"]["value"], 3)
    page = (tmp_path / "found.md").read_text("utf-8")
    assert "| diffusers | 1.0 | 2 | 4 | none |" in page
    assert "a note" in page
    with monkeypatch.context() as patched:                                             # a second call finds all that it needs
        patched.setattr(quality_sample, "part", None)
        patched.setattr(quality_train, "advance", None)
        mini_peers.train("diffusers", tiny, tmp_path, 1.0)
        mini_peers.measure(tiny, tmp_path, 12, way, 1.0, tmp_path / "found", [])
    with pytest.raises(SystemExit, match="other data"):
        mini_peers.train("diffusers", tiny._replace(count=13), tmp_path, 1.0)


@pytest.mark.skipif(peers.diffusers() is None, reason="diffusers is not installed")
def test_peers_on_latents_are_told_what_ours_is_told(tmp_path: Path) -> None:
    data = mini_peers_data.Data(("scenes:20,objects=1,material=matte,light=soft",), 2, tmp_path / "cache", "mini")
    contestant = mini_peers_recipes.CONTESTANTS["diffusers-latents"]
    recipe = Recipe(nn.Identity(), lambda x0: x0, 8, 1, 1.0, (0.9, 0.99), 0.0, lambda step, spent: 1.0, lambda step: None)
    torch.manual_seed(0)
    x0, tokens = mini_peers_data.examples(data, contestant, tmp_path)(recipe)(0)
    assert (x0.shape, tokens.shape) == ((8, 8, 16, 16), (8, 32, 192))
    assert 0.3 < float(x0.std()) < 3.0
    (untold,) = mini_peers_data.examples(data, contestant._replace(told=False), tmp_path)(recipe)(0)
    assert torch.equal(x0, untold)
    assert len(tokens.unique(dim=0)) > 4
