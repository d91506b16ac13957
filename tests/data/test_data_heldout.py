"""What is held out is a function of the keys alone, and a model's bound says it again for any part of the data."""

from __future__ import annotations

from inkwash.data.heldout import bound, hold_out, hold_out_up_to
from inkwash.data.source import Concat, Mixture, open_source


def keys(source: object) -> list[str]:
    return [source.key(i) for i in range(len(source))]  # type: ignore[attr-defined]


def test_the_bound_finds_the_same_items() -> None:
    source = open_source("scenes:200")
    training, validation = hold_out(source, 20)
    assert validation is not None
    again, apart = hold_out_up_to(source, bound(validation))
    assert apart is not None
    assert keys(apart) == keys(validation)
    assert keys(again) == keys(training)
    assert not set(keys(training)) & set(keys(validation))


def test_at_most_a_tenth_is_held_out() -> None:
    source = open_source("scenes:39")
    found = [hold_out(source, count)[1] for count in (0, 2, 30)]
    assert [len(one) if one is not None else 0 for one in found] == [0, 2, 3]
    assert hold_out(open_source("scenes:9"), 5)[1] is None


def test_in_a_part_of_the_data_only_items_that_no_training_saw_are_held_out() -> None:
    whole = open_source("scenes:200")
    _, validation = hold_out(whole, 10)
    assert validation is not None
    part = open_source("scenes:100")
    _, apart = hold_out_up_to(part, bound(validation))
    assert apart is not None
    assert set(keys(apart)) == set(keys(validation)) & set(keys(part))
    _, count_again = hold_out(part, 10)
    assert count_again is not None
    assert not set(keys(count_again)) <= set(keys(validation)), "the same number of a part would take items that were trained on"


def test_repeats_stay_with_training() -> None:
    parts = [open_source("scenes:30"), open_source("scenes:40")]
    source = Mixture(parts, [3, 1])
    training, validation = hold_out(source, 5)
    assert isinstance(training, Mixture)
    assert validation is not None
    assert len(training.base) + len(validation) == 70
    assert not hold_out_up_to(Concat(parts), "")[1]
