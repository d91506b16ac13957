"""The pictures to measure on are those that training never saw, or it must be said."""

from __future__ import annotations

import pytest

from inkwash.data.heldout import bound, hold_out
from inkwash.data.source import open_source
from inkwash.errors import DataError, UsageError
from inkwash.evaluate.split import split


def keys(source: object) -> set[str]:
    return {source.key(i) for i in range(len(source))}  # type: ignore[attr-defined,arg-type]


def test_the_card_finds_what_training_held_out() -> None:
    source = open_source("scenes:120")
    training, validation = hold_out(source, 10)
    assert validation is not None
    for card in ({"held_out": bound(validation)}, {"images": len(training)}):
        found = split(source, card, None)
        assert keys(found.reference("held-out")) == keys(validation)
        assert keys(found.reference("train")) == keys(training)
        assert keys(found.reference("all")) == keys(source)


def test_nothing_is_guessed() -> None:
    source = open_source("scenes:120")
    for card in ({}, {"images": 5000}, {"images": 60}):    # another data set; too many to have been held out
        with pytest.raises(UsageError, match="--held-out") as caught:
            split(source, card, None)
        assert caught.value.code == "held_out_unknown"


def test_it_can_be_said() -> None:
    source = open_source("scenes:120")
    everything = split(source, {}, "all")
    assert everything.train is None
    assert len(everything.reference("held-out")) == 120
    with pytest.raises(DataError, match="no train pictures"):
        everything.reference("train")
    assert len(split(source, {}, "12").reference("held-out")) == 12
    _, validation = hold_out(source, 7)
    assert validation is not None
    assert keys(split(source, {}, bound(validation)).reference("held-out")) == keys(validation)
    for wrong in ("some", "-1", "0x12", ""):
        with pytest.raises(UsageError, match="--held-out"):
            split(source, {}, wrong)
    with pytest.raises(UsageError, match="held-out, train or all"):
        everything.reference("validation")
