"""An error is the same in another process."""

from __future__ import annotations

import copy
import pickle
import re
import tomllib
from pathlib import Path

import pytest

from inkwash.errors import DataError, InkwashError, UsageError, install
from inkwash.serve.admission import Refused


@pytest.mark.parametrize("error", [UsageError("bad_steps", "too many"), DataError("image_format", "a GIF"), Refused("queue_full", "later", 2.5)],
                         ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error: InkwashError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert again.line() == error.line()
        assert str(again) == str(error)


def test_every_message_that_says_what_to_install_says_it_alike_and_names_extras_that_exist() -> None:
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    code = {path: path.read_text("utf-8") for path in (root / "src").rglob("*.py")}
    asked = [found for text in code.values() for found in re.findall(r"""\b(?:install|_require)\((?:\([^)]*\), )?["']([a-z,]+)["']\)""", text)]
    assert {name for names in asked for name in names.split(",")} == set(extras) - {"all"}
    assert [path.name for path, text in code.items() if "pip install" in text] == ["errors.py"]
    assert 'pip install -e ".[serve,ray]"' in install("serve,ray")
    for page in (root / "README.md", *(root / "docs").rglob("*.md")):                   # nothing is published under a name of ours
        assert not re.search(r"pip install[^\n]*\binkwash\b", page.read_text("utf-8")), page
