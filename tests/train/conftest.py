"""Fixtures of the training tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture
def command(data: Path) -> Callable[..., list[str]]:
    """The command line of a run, with --set for each change."""

    def build(out: Path, *extra: str, recipe: str = "toy", **changes: Any) -> list[str]:
        settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        return [str(Path(sys.executable).with_name("inkwash")), "train", recipe, "--data", str(data), "--out", str(out), *settings, *extra]

    return build
