"""Which items are shown, how often, and in which of their captions' forms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_examples import examples, write_tar

from inkwash.data.captions import Forms
from inkwash.data.choice import Chosen, choose
from inkwash.data.loader import Loader
from inkwash.data.shuffle import coin
from inkwash.data.source import Mixture, Source, distinct, open_source
from inkwash.errors import DataError, UsageError
from inkwash.train.config import validate

RULES = [("^picture number ", "a picture of "), (r"^picture number (\d)$", r"\1 in a picture")]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(write_tar(tmp_path / "a.tar", examples(12)))


def test_items_are_left_out_and_repeated_by_their_captions(source: Source) -> None:
    chosen = choose(source, ["number 1$"], {"number 2$": 3, "number [23]$": 2})
    assert [chosen.caption(i)[15:] for i in range(len(chosen))] == ["0", "2", "2", "2", "3", "3", "4", "5", "6", "7", "8", "9", "10", "11"]
    with Loader(chosen, 14, size=16, prefetch=0) as loader:
        seen = loader.pick(0).index
        assert torch.bincount(seen, minlength=12).tolist() == [1, 0, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1]
        assert loader.batch(0).index.tolist() == seen.tolist(), "caches and batches address the same distinct items"


def test_a_choice_among_repeats_keeps_both(source: Source) -> None:
    twice = Mixture([source], [2])
    chosen = choose(twice, ["number [1-9]"], {})
    assert isinstance(chosen, Chosen)
    assert len(distinct(chosen)) == 12
    assert chosen.origin(np.arange(2)).tolist() == [0, 0]


def test_without_rules_the_source_stays_and_rules_that_leave_nothing_are_refused(source: Source) -> None:
    assert choose(source, [], {}) is source
    with pytest.raises(DataError, match="leaves nothing to train on"):
        choose(source, ["picture"], {})


@pytest.mark.parametrize(("key", "value", "said"), [
    ("leave_out", ["("], "'(' is not a regular expression"), ("repeat", {"[": 2}, "'[' is not a regular expression"),
    ("repeat", {"a": 0}, "greater than 0"), ("rewrite", [["^a", r"\2"]], "cannot replace what '^a' finds"),
])
def test_bad_rules_are_refused_before_anything_starts(key: str, value: object, said: str) -> None:
    recipe = {"task": "autoencoder", "network": "AutoencoderConfig()", "steps": 1, "data": {key: value}}
    with pytest.raises(UsageError, match=re.escape(said)):
        validate(recipe, "recipe")


def test_forms_of_a_caption(source: Source) -> None:
    forms = Forms(source, RULES)
    assert [forms.write("picture number 3", form) for form in range(3)] == ["picture number 3", "a picture of 3", "3 in a picture"]
    assert forms.write("picture number 11", 2) == "picture number 11", "a pattern that does not match changes nothing"
    assert len(forms) == 36
    assert forms.caption(12 + 3) == "a picture of 3"


def test_forms_are_drawn_by_seed_epoch_and_item_and_apart_from_flips(source: Source) -> None:
    forms, index = Forms(source, RULES), np.arange(20_000)
    zeros, ones = np.zeros_like(index), np.ones_like(index)
    first = forms.draw(3, zeros, index)
    assert np.abs(np.bincount(first) / 20_000 - 1 / 3).max() < 0.02
    for other in (forms.draw(4, zeros, index), forms.draw(3, ones, index), forms.draw(3, zeros, index + 20_000)):
        assert abs((first == other).mean() - 1 / 3) < 0.02
    flipped = coin(3, zeros, index)
    assert all(abs(flipped[first == form].mean() - 0.5) < 0.03 for form in range(3))


def test_each_epoch_draws_a_form_that_batches_and_picks_agree_on(source: Source) -> None:
    with Loader(source, 12, size=16, rewrite=RULES, seed=3) as loader, Loader(source, 12, size=16, seed=3) as plain:
        assert loader.fingerprint != plain.fingerprint
        drawn = []
        for step in range(60):
            batch, picked = loader.batch(step), loader.pick(step)
            assert batch.captions == [loader.forms.caption(int(form) * 12 + int(index)) for form, index in zip(picked.form, picked.index)]
            drawn.append(picked.form)
        shares = torch.bincount(torch.cat(drawn), minlength=3) / 720
        assert shares.sub(1 / 3).abs().max() < 0.07
        assert not plain.pick(0).form.any()
