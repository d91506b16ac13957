"""What the tests of one service share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, running


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the tiny model and without keys, for one file of tests."""
    with running(tmp_path_factory.mktemp("serve"), str(tiny_model)) as found:
        yield found
