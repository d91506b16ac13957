"""The table of choices for the embedded model: every way is a valid recipe, no two ways of an axis are the same, and costs are told apart."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from inkwash.train.config import RunConfig, read_recipe

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from choices_axes import bases, recipes
from choices_page import at, curves, page

PARTS = {"mini-denoiser": ["autoencoder=parts", "text=parts"], "mini-autoencoder": []}
CASES = [(part, recipe, name, ways) for part in (1, 2) for recipe, axes in recipes(part).items() for name, ways in axes.items()]


@pytest.mark.parametrize(("part", "recipe", "name", "ways"), CASES, ids=[f"{recipe}-{name}-{part}" for part, recipe, name, _ in CASES])
def test_every_way_is_a_recipe_of_its_own(part: int, recipe: str, name: str, ways: dict[str, tuple[str, ...]]) -> None:
    found: list[RunConfig] = []
    for settings in ways.values():
        config = read_recipe(recipe, [*PARTS[recipe], *bases(part)[recipe], *settings])
        assert config not in found
        found.append(config)
    assert not next(iter(ways.values())), "the first way is the base"
    assert all(one.network.build() is not None for one in found)  # type: ignore[attr-defined]
    if name == "network":
        assert next(iter(ways)).endswith(", ".join(map(str, found[0].network.widths))), "it is named by its widths"  # type: ignore[attr-defined]


def test_a_dearer_way_is_read_where_it_would_have_been() -> None:
    """The curves are of 1 / log2(pictures): a way that costs twice as much has seen half as many."""
    def way(cost: float, last: int) -> dict[str, object]:
        points = [{"seconds": 1.0, "samples": last >> back, "value": -math.log2(last >> back)} for back in (2, 1, 0)]
        return {"points": points, "cost": cost, "parameters": 5, "settings": []}

    assert at(way(1.0, 1024)["points"], 700) == pytest.approx(-math.log2(700))  # type: ignore[arg-type]
    assert at(way(1.0, 1024)["points"], 1500) == pytest.approx(-math.log2(1500))  # type: ignore[arg-type]
    found = {"about": {"date": "d", "machine": {"processor": "p"}, "commit": "c", "seconds": 1, "narrow": 2, "command": "x"},
             "ways": {"mini-denoiser: base": way(1.0, 1024), "mini-denoiser: flip: yes": way(2.0, 1024), "mini-denoiser: drop: 0": way(1.0, 700)}}
    told = page(found, "x.svg")
    assert "| 2.00 | -9.0000 | +1.0000 |" in told, "it saw as many in twice the time"
    assert "| 1.00 | -10.0000 | +0.0000 |" in told, "it saw fewer, but in less time"
    assert curves(found).count("<polyline") == 4
    assert "seed" not in told.split("\n## ", 1)[1], "of which nothing is known but the base"
