"""The judge of drawn scenes names what was drawn, and sees what is wrong."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from inkwash.data.scenes.layout import Dice, sample
from inkwash.data.scenes.render import render
from inkwash.data.scenes.source import draw
from inkwash.data.scenes.wanted import Wanted, read
from inkwash.errors import UsageError
from inkwash.evaluate.judges.scenes import Bank, Found, Verdict, bank, components, find, judge, shares

WORDS = "shape=sphere+cube+cone+star+heart,color=red+orange+yellow+green+blue+purple+pink+black,material=matte,light=soft,background=white+gray"
SINGLE, PAIR = read(f"objects=1,size=large,{WORDS}"), read(f"objects=2,size=medium+large,{WORDS}")


@pytest.fixture(scope="module")
def known() -> Bank:
    return bank(32, read(f"size=medium+large,{WORDS}"), 600)


def scores(wanted: Wanted, known: Bank, count: int) -> dict[str, float]:
    pictures = [draw(77, number, 32, wanted=wanted) for number in range(count)]
    return shares([judge(find(picture.pixels, known), picture.labels) for picture in pictures])


def test_single_objects_are_named(known: Bank) -> None:
    found = scores(SINGLE, known, 120)
    assert min(found[kind] for kind in ("object", "color", "count", "binding", "size")) >= 0.98, found


def test_pairs_are_named(known: Bank) -> None:
    found = scores(PAIR, known, 120)
    assert min(found[kind] for kind in ("color", "count", "position")) >= 0.98, found
    assert found["binding"] >= 0.9, found                                              # what stands behind shows a part of its outline


@pytest.mark.parametrize(("kind", "change"), [
    ("color", {"color": "cyan"}), ("object", {"shape": "moon"}), ("count", {"count": 2}), ("binding", {"shape": "moon"}), ("size", {"size": "small"}),
])
def test_a_wrong_word_is_seen(known: Bank, kind: str, change: dict[str, Any]) -> None:
    for number in range(12):
        picture = draw(78, number, 32, wanted=SINGLE)
        labels = copy.deepcopy(picture.labels)
        labels["objects"][0] |= change  # type: ignore[index]
        assert getattr(judge(find(picture.pixels, known), labels), kind) is False


def test_swapped_colours_break_binding_and_position_alone() -> None:
    group = {"size": "large", "count": 1}
    labels: dict[str, Any] = {"objects": [{"shape": "cube", "color": "red", **group}, {"shape": "star", "color": "blue", **group}],
              "relation": {"subject": 0, "relation": "left of", "object": 1}}
    left, right = (4.0, 40.0, 50.0, 90.0), (70.0, 40.0, 120.0, 90.0)
    true = judge([Found("cube", "red", "large", left), Found("star", "blue", "large", right)], labels)
    assert true == Verdict(True, True, True, True, True, True)
    assert true.right
    swapped = judge([Found("cube", "blue", "large", left), Found("star", "red", "large", right)], labels)
    assert swapped == Verdict(True, True, True, True, False, False)
    assert not swapped.right
    moved = judge([Found("cube", "red", "large", right), Found("star", "blue", "large", left)], labels)
    assert (moved.binding, moved.position, moved.right) == (True, False, False)
    assert judge([], labels) == Verdict(*[False] * 6)
    assert shares([true, swapped])["binding"] == 0.5


def test_an_empty_floor_and_noise_show_no_object_that_was_asked_for(known: Bank) -> None:
    assert find(np.full((32, 32, 3), 200, dtype=np.uint8), known) == []
    labels = draw(77, 0, 32, wanted=SINGLE).labels
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert not judge(find(noise, known), labels).right


def test_boxes_are_where_the_objects_are(known: Bank) -> None:
    for number in range(20):
        picture = draw(79, number, 32, wanted=SINGLE)
        (seen,) = find(picture.pixels, known)
        np.testing.assert_allclose(seen.box, np.array(picture.labels["objects"][0]["boxes"][0]) * 4, atol=8)  # type: ignore[index]


def test_components_touch_along_edges() -> None:
    mask = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=bool)
    assert sorted(int(part.sum()) for part in components(mask)) == [1, 3]
    assert components(np.zeros((3, 3), dtype=bool)) == []


def test_pictures_of_another_size_are_refused(known: Bank) -> None:
    with pytest.raises(UsageError, match="pictures of shape"):
        find(render(sample(Dice(1, 0), SINGLE), 64), known)
