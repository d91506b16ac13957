"""The table of choices for the embedded model: every way is a valid recipe, and no two ways of an axis are the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inkwash.train.config import RunConfig, read_recipe

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RECIPES = {"DENOISER": "mini-denoiser", "AUTOENCODER": "mini-autoencoder"}


def axes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("choices_axes", BENCHMARKS / "choices_axes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["choices_axes"] = module
    spec.loader.exec_module(module)
    return module


CASES = [(recipe, name, ways) for table, recipe in RECIPES.items() for name, ways in getattr(axes(), table).items()]


@pytest.mark.parametrize(("recipe", "name", "ways"), CASES, ids=[name for _, name, _ in CASES])
def test_every_way_is_a_recipe_of_its_own(recipe: str, name: str, ways: dict[str, tuple[str, ...]]) -> None:
    fixed = ["autoencoder=parts", "text=parts"] if recipe == "mini-denoiser" else []
    found: list[RunConfig] = []
    for settings in ways.values():
        config = read_recipe(recipe, [*fixed, *settings])
        assert config not in found
        found.append(config)
    assert not next(iter(ways.values())), "the first way is the base"
    if hasattr(found[0], "network"):
        assert all(one.network.build() is not None for one in found)
