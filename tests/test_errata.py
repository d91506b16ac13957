"""Mistakes in articles on diffusion: the wrong form fails its check, the right form passes. The docs page is made of the same list."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

from errata import ARTICLES, ERRATA, Erratum


def test_all_39_are_here() -> None:
    assert [entry.number for entry in ERRATA] == list(range(1, 40))
    assert {entry.article for entry in ERRATA} <= set(ARTICLES)


@pytest.mark.parametrize("entry", ERRATA, ids=lambda entry: entry.id)
def test_the_right_form_passes(entry: Erratum) -> None:
    for check in entry.checks:
        check.test(check.right)


@pytest.mark.parametrize("entry", ERRATA, ids=lambda entry: entry.id)
def test_the_wrong_form_fails(entry: Erratum) -> None:
    assert entry.checks
    for check in entry.checks:
        with pytest.raises(AssertionError):
            check.test(check.wrong)


@pytest.mark.parametrize("entry", ERRATA, ids=lambda entry: entry.id)
def test_every_entry_is_whole(entry: Erratum) -> None:
    assert all((entry.says, entry.why, entry.instead, entry.source, entry.topic))
    assert entry.kind in ("code", "fact", "unread")
