"""Batches are a pure function of (data, seed, step): resume, ranks, epochs, flips, and what happens to damaged images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_examples import examples, write_captions, write_metadata, write_tar

from inkwash.data.loader import Batch, Loader
from inkwash.data.shuffle import coin, permute
from inkwash.data.source import Source, open_source
from inkwash.errors import DataError, UsageError


def same(a: Batch, b: Batch) -> bool:
    return (torch.equal(a.images, b.images) and a.captions == b.captions and a.keys == b.keys and torch.equal(a.index, b.index)
            and torch.equal(a.flipped, b.flipped))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(write_tar(tmp_path / "a.tar", examples(23)))


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000, 4097])
def test_the_shuffle_is_a_permutation_that_depends_on_seed_and_epoch(count: int) -> None:
    position = np.arange(count)
    orders = [permute(position, count, seed, np.full(count, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**63 - 1, 5))]
    for order in orders:
        assert np.array_equal(np.sort(order), position)
    if count >= 16:
        assert len({tuple(order) for order in orders}) == 4
        assert max(abs(np.corrcoef(position, order)[0, 1]) for order in orders) < 0.75


def test_the_shuffle_has_no_favourite_places() -> None:
    """Over many epochs each item visits each place equally often: chi-square of 36 cells stays within 6 sigma of its mean."""
    epochs, count = 3600, 6
    table = np.zeros((count, count))
    place, epoch = np.tile(np.arange(count), epochs), np.repeat(np.arange(epochs), count)
    np.add.at(table, (place, permute(place, count, 9, epoch)), 1)
    expected = epochs / count
    freedom = (count - 1) ** 2
    assert ((table - expected) ** 2 / expected).sum() < freedom + 6 * (2 * freedom) ** 0.5


def test_coins_are_fair_and_repeatable() -> None:
    index = np.arange(20_000)
    flips = coin(3, np.zeros_like(index), index)
    assert abs(flips.mean() - 0.5) < 0.02
    assert np.array_equal(flips, coin(3, np.zeros_like(index), index))
    assert abs((flips == coin(3, np.ones_like(index), index)).mean() - 0.5) < 0.02
    assert abs((flips == coin(4, np.zeros_like(index), index)).mean() - 0.5) < 0.02


def test_a_resumed_loader_gives_the_batches_of_a_straight_one(source: Source, tmp_path: Path) -> None:
    with Loader(source, 5, size=16, seed=4, flip=True) as straight:
        batches = [straight.batch(step) for step in range(12)]
    for settings in ({}, {"prefetch": 0}, {"cache": tmp_path / "cache"}, {"cache": tmp_path / "cache", "prefetch": 4}):
        with Loader(source, 5, size=16, seed=4, flip=True, **settings) as resumed:
            for step in (7, 8, 9, 2, 11, 0):
                assert same(resumed.batch(step), batches[step])
            picked = resumed.pick(7)
            assert torch.equal(picked.index, batches[7].index)
            assert torch.equal(picked.flipped, batches[7].flipped)
    with Loader(source, 5, size=16, seed=5, flip=True) as other:
        assert not same(other.batch(7), batches[7])
        assert other.fingerprint != straight.fingerprint


def test_whatever_changes_the_batches_changes_the_fingerprint(source: Source) -> None:
    """A run that goes on in a changed order, form or picture would not be the run that it says it is."""
    settings = [{}, {"flip": True}, {"mode": "pad"}, {"seed": 1}, {"size": 8}, {"batch_size": 4}, {"accumulate": 2}, {"rewrite": [("^picture", "a")]},
                {"rewrite": [("^picture", "b")]}]
    found = []
    for changes in settings:
        with Loader(source, **{"batch_size": 5, "size": 16, "prefetch": 0, **changes}) as loader:
            found.append(loader.fingerprint)
    assert len(set(found)) == len(settings)
    with Loader(source, 10, size=16, prefetch=0) as large, Loader(source, 5, size=16, prefetch=0, accumulate=2) as halves:
        assert large.fingerprint == halves.fingerprint, "the order of items is the same"


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_ranks_together_are_one_process(source: Source, world: int) -> None:
    with Loader(source, 6, size=16, seed=1, flip=True) as whole:
        for step in (0, 3, 9):
            parts = []
            for rank in range(world):
                with Loader(source, 6, size=16, seed=1, flip=True, rank=rank, world=world) as loader:
                    parts.append(loader.batch(step))
            union = Batch(torch.cat([p.images for p in parts]), [c for p in parts for c in p.captions], [k for p in parts for k in p.keys],
                          torch.cat([p.index for p in parts]), torch.cat([p.flipped for p in parts]))
            assert same(union, whole.batch(step))


def test_every_epoch_covers_each_item_once_and_repeats_as_often_as_asked(tmp_path: Path) -> None:
    first, second = write_tar(tmp_path / "a.tar", examples(7)), write_tar(tmp_path / "b.tar", examples(4))
    source = open_source([f"{first}*3", second])                                       # 21 + 4 positions
    with Loader(source, 5, size=16, prefetch=0) as loader:
        for epoch in range(3):
            seen = torch.cat([loader.pick(epoch * 5 + step).index for step in range(5)])
            assert torch.bincount(seen, minlength=11).tolist() == [3] * 7 + [1] * 4
        assert loader.epoch(5) == 1.0


def test_a_flipped_image_is_the_mirror_of_the_plain_one(source: Source) -> None:
    with Loader(source, 23, size=16, flip=True, prefetch=0) as flipping, Loader(source, 23, size=16, prefetch=0) as plain:
        mirrored, straight = flipping.batch(0), plain.batch(0)
    assert 3 < int(mirrored.flipped.sum()) < 20
    assert not straight.flipped.any()
    for slot in range(23):
        expected = straight.images[slot].flip(-1) if mirrored.flipped[slot] else straight.images[slot]
        assert torch.equal(mirrored.images[slot], expected)
        assert not torch.equal(straight.images[slot].flip(-1), straight.images[slot])


def damaged(folder: Path, count: int, bad: int) -> Path:
    rows = [(name, data[:len(data) // 2] if number % (count // bad) == 1 and number // (count // bad) < bad else data, caption)
            for number, (name, data, caption) in enumerate(examples(count))]
    return write_captions(folder, rows)


@pytest.mark.parametrize("cached", [False, True])
def test_t21_three_of_a_thousand_truncated(tmp_path: Path, cached: bool) -> None:
    folder = damaged(tmp_path / "set", 1000, 3)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = tmp_path / "out" / "quarantine.jsonl"
    source = open_source(folder)
    for _ in range(2):                                                                  # a second run repeats no line
        with Loader(source, 100, size=16, cache=tmp_path / "cache" if cached else None, quarantine=lines) as loader:
            batches = [loader.batch(step) for step in range(10)]
            assert loader.summary().startswith("3 of 1000 images could not be read")
            assert str(lines) in loader.summary()
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["key"] for line in written] == ["0001.png", "0334.png", "0667.png"]
    assert all(line["reason"] and Path(line["where"]).is_file() for line in written)
    seen = torch.bincount(torch.cat([batch.index for batch in batches]), minlength=1000)
    assert seen[[1, 334, 667]].tolist() == [0, 0, 0]
    assert seen[[2, 335, 668]].tolist() == [2, 2, 2]                                   # the next readable item stands in
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("cached", [False, True])
def test_t22_five_percent_corrupt_stops_before_the_first_step(tmp_path: Path, cached: bool) -> None:
    source = open_source(damaged(tmp_path / "set", 400, 20))
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            Loader(source, 10, size=16, cache=tmp_path / "cache" if cached else None)
        assert (caught.value.code, caught.value.exit_code) == ("too_many_unreadable", 3)
        assert caught.value.message.count("0.png") + caught.value.message.count("1.png") >= 10
        assert "inkwash data check" in caught.value.message
        assert "2%" in caught.value.message


def test_an_image_that_breaks_after_the_check_is_replaced(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "m", examples(8))
    with Loader(open_source(folder), 8, size=16, prefetch=0, quarantine=tmp_path / "q.jsonl") as loader:
        (folder / "images" / "0003.png").write_bytes(b"")
        index = loader.batch(0).index.tolist()
        assert sorted(index) == [0, 1, 2, 4, 4, 5, 6, 7]
        assert loader.pick(0).index.tolist() == index
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1


def test_nothing_readable_and_bad_batch_sizes(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        Loader(open_source(write_captions(tmp_path / "x", [("a", b"x", "a"), ("b", b"y", "b")])), 2, size=16, limit=1.0).batch(0)
    for batch, world in ((0, 1), (5, 2)):
        with pytest.raises(UsageError, match="batch size"):
            Loader(source, batch, size=16, world=world)
