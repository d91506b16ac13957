"""The models that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkwash.io.find import MODELS
from tiny import build_tiny

torch.set_num_threads(1)  # the workers of the tests share the cores


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model; do not change it, copy it."""
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def stranger_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another tiny model, with other weights in every part."""
    return build_tiny(tmp_path_factory.mktemp("models") / "stranger", seed=9)


@pytest.fixture(scope="session")
def mini() -> str:
    """The embedded model, which must be in the package."""
    assert (MODELS / "mini" / "inkwash.json").is_file()
    return "mini"
