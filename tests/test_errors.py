"""An error is the same in another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from inkwash.errors import DataError, InkwashError, UsageError
from inkwash.serve.admission import Refused


@pytest.mark.parametrize("error", [UsageError("bad_steps", "too many"), DataError("image_format", "a GIF"), Refused("queue_full", "later", 2.5)],
                         ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error: InkwashError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert again.line() == error.line()
        assert str(again) == str(error)
