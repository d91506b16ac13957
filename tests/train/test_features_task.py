"""Training a feature extractor: views, losses, resuming, and what is exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from inkwash.errors import DataError, UsageError
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.io.folder import load_part
from inkwash.train.augment import _quantised, shared, view
from inkwash.train.config import read_recipe, validate
from inkwash.train.extractor import fit_head, frequent_words, nt_xent, words_of
from inkwash.train.run import train
from inkwash.train.task import Draw

TINY: dict[str, Any] = {
    "task": "features", "network": "FeatureNetConfig(size=16, patch=2, widths=(8, 16), blocks=(1, 1), features=(8, 16))", "projection": 8,
    "min_count": 2, "steps": 6, "batch": 8, "precision": "float32", "ema_half_life": 32, "log_every": 1, "checkpoint_every": 3,
    "validate_every": 3, "export_dtype": "float32", "optimizer": {"lr": 0.005}, "data": {"size": 16, "validation": 2},
}


def images(count: int = 6, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nt_xent_by_definition() -> None:
    """Equation 1 of the paper, pair by pair; pictures with one caption are no negatives."""
    vectors = F.normalize(torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=2)
    names = torch.tensor([0, 1, 2, 1, 4])
    found, _ = nt_xent(vectors, vectors, names, names, 0, 0.2)
    flat = vectors.flatten(0, 1)
    for i in range(5):
        total = 0.0
        for row, other in ((i, i + 5), (i + 5, i)):
            rivals = [k for k in range(10) if k == other or names[k % 5] != names[i]]
            total += -float(flat[row] @ flat[other]) / 0.2 + math.log(sum(math.exp(float(flat[row] @ flat[k]) / 0.2) for k in rivals))
        assert found[i] == pytest.approx(total / 2, rel=1e-12)


def test_nt_xent_of_a_part_is_a_part() -> None:
    """Two processes with half of the batch each find the values of one with all of it."""
    vectors = F.normalize(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2)), dim=2)
    names = torch.arange(6)
    whole = nt_xent(vectors, vectors, names, names, 0, 0.1)
    parts = [nt_xent(vectors[:, at], vectors, names[at], names, at.start, 0.1) for at in (slice(0, 3), slice(3, 6))]
    for k in range(2):
        torch.testing.assert_close(torch.cat([part[k] for part in parts]), whole[k])


def test_views_are_functions_of_the_position() -> None:
    whole = shared(images(), Draw(3, 1, 6))
    one = view(whole, Draw(3, 1, 6), "one")
    half = Draw(3, 1, 6, 2, 2)
    torch.testing.assert_close(view(shared(images()[2:4], half), half, "one"), one[2:4], rtol=0, atol=1e-6)
    assert not torch.equal(view(whole, Draw(3, 1, 6), "two"), one)
    assert not torch.equal(view(shared(images(), Draw(3, 2, 6)), Draw(3, 2, 6), "one"), one)
    assert one.min() >= 0
    assert one.max() <= 1


def test_quantised_like_a_jpeg() -> None:
    """A step of zero changes nothing, a small one little, a flat block with a large one moves to a multiple of the step / 8."""
    values = images().float() / 255
    assert torch.equal(_quantised(values, torch.zeros(6)), values)
    assert 0 < (_quantised(values, torch.full((6,), 1e-3)) - values).abs().max() < 0.02
    flat = _quantised(torch.full((1, 3, 16, 16), 0.33), torch.tensor([1.6]))
    torch.testing.assert_close(flat, torch.full((1, 3, 16, 16), 0.4))


def test_words() -> None:
    assert words_of("Emoji of a T-shirt, light-blue: o'clock") == {"emoji", "of", "a", "t-shirt", "light-blue", "o'clock"}
    assert frequent_words(["a red cat", "a red dog", "a cat"], 2) == ["cat", "red"]
    with pytest.raises(DataError, match="no word stands in 3 captions"):
        frequent_words(["red", "blue", "red"], 3)


def test_linear_head_finds_the_minimum() -> None:
    """At the minimum the gradient vanishes, and separable classes are told apart."""
    generator = torch.Generator().manual_seed(5)
    truth = torch.arange(60) % 3
    features = torch.randn(60, 4, generator=generator) + 3 * F.one_hot(truth, 4)
    head = fit_head(features, truth, 3, decay=0.01)
    weight = head.linear.weight.clone().requires_grad_()
    loss = F.cross_entropy(features @ weight.T + head.linear.bias, truth) + 0.005 * weight.square().sum()
    assert torch.autograd.grad(loss, weight)[0].abs().max() < 1e-3
    assert (head(features).argmax(1) == truth).float().mean() > 0.9


def test_a_run_and_its_resumption(data: Path, tmp_path: Path) -> None:
    """A stopped run that goes on ends with the bits of one that was not stopped; the folder is an extractor with a card."""
    whole = train(validate(TINY, "tiny"), [data], tmp_path / "whole", quiet=True)
    train(validate({**TINY, "steps": 3}, "tiny"), [data], tmp_path / "parts", quiet=True)
    parts = train(validate(TINY, "tiny"), [data], tmp_path / "parts", quiet=True)
    assert whole.sha256 == parts.sha256
    losses = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"contrast", "words", "found"} <= set(losses[1])
    assert [event["step"] for event in losses if event["event"] == "validation"] == [0, 3, 6]
    about = json.loads((tmp_path / "whole" / "model" / "features.json").read_text())
    assert about["words"] == ["0", "1", "blue", "green", "red"]
    assert about["card"]["steps"] == 6
    assert about["card"]["images"] == 22
    assert len(about["card"]["held_out"]) == 64
    extractor = load_extractor(str(tmp_path / "whole"))
    assert (extractor.dim, extractor.name) == (24, "whole")
    features = extractor(images(20))
    assert features.shape == (20, 24)
    network = load_part(tmp_path / "whole" / "model", "extractor")
    assert bool((network.scale != 1).any())                                             # type: ignore[union-attr]


def test_recipe_and_its_mistakes(data: Path, tmp_path: Path) -> None:
    recipe = read_recipe("features")
    assert (recipe.task, recipe.name) == ("features", "ink")
    with pytest.raises(UsageError, match="must be the network's size 16"):
        train(validate({**TINY, "data": {"size": 32}}, "tiny"), [data], tmp_path / "a", quiet=True)
    with pytest.raises(UsageError, match="accumulate must be 1"):
        train(validate({**TINY, "accumulate": 2}, "tiny"), [data], tmp_path / "b", quiet=True)
    with pytest.raises(DataError, match="named by no photo"):
        train(validate({**TINY, "steps": 1, "classes": ["hat", "shoe"]}, "tiny"), [data], tmp_path / "c", quiet=True)
