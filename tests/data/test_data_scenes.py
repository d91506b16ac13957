"""Drawn scenes: a function of (seed, number) alone, and captions that are true of the labels and of the pixels."""

import colorsys
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from inkwash.data.loader import Loader
from inkwash.data.scenes import layout, sprite
from inkwash.data.scenes.render import render
from inkwash.data.scenes.shapes import FORMS
from inkwash.data.scenes.source import Picture, Scenes, draw, open_scenes, write_scenes
from inkwash.data.scenes.sprite import sprite as traced
from inkwash.data.scenes.vocabulary import BACKGROUNDS, COLOURS, LIGHTS, MATERIALS, NUMBERS, SHAPES, SIZES
from inkwash.data.scenes.wanted import Wanted, read
from inkwash.data.source import open_source
from inkwash.errors import DataError, UsageError

CHROMATIC = [name for name in COLOURS if name not in ("white", "black", "gray", "brown")]

RELATION = r" (?:to the left of|to the right of|left of|right of|above|below|under|on top of|behind|in front of) "


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw(11, number, pixels=False) for number in range(120)]


def hue(colour: tuple[float, float, float]) -> float:
    return colorsys.rgb_to_hsv(*(channel ** 0.5 for channel in colour))[0]


def colour_mask(pixels: np.ndarray, name: str, tolerance: float = 0.06) -> np.ndarray:
    """Saturated pixels whose hue is that of the colour word."""
    rgb = pixels.astype(np.float64) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = np.maximum(high - low, 1e-9)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    angle = np.where(high == r, ((g - b) / chroma) % 6, np.where(high == g, (b - r) / chroma + 2, (r - g) / chroma + 4)) / 6
    distance = np.abs((angle - hue(COLOURS[name]) + 0.5) % 1 - 0.5)
    return (distance < tolerance) & (chroma / np.maximum(high, 1e-9) > (0.3 if name == "pink" else 0.5)) & (high > 0.15)


def test_a_scene_depends_on_seed_and_number_alone() -> None:
    first = [draw(5, number) for number in range(6)]
    traced.cache_clear()
    sprite.shadow.cache_clear()
    for number in (4, 0, 5):
        again = draw(5, number)
        assert np.array_equal(again.pixels, first[number].pixels)
        assert (again.caption, again.labels) == (first[number].caption, first[number].labels)
    assert len({picture.pixels.tobytes() for picture in [*first, *(draw(6, number) for number in range(6))]}) == 12
    assert draw(5, 3, 64).caption == first[3].caption
    assert draw(2**63 - 1, 10**12).pixels.shape == (128, 128, 3)


def test_labels_are_plain_json(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert json.loads(json.dumps(picture.labels)) == picture.labels
        for group in picture.labels["objects"]:
            assert group["count"] == len(group["boxes"]) == len(group["visible"])
            assert group["shape"] in SHAPES
            assert group["color"] in COLOURS
            assert group["material"] in MATERIALS
            for left, top, right, bottom in group["boxes"]:
                assert 0 <= left < right <= 128
                assert 0 <= top < bottom <= 128


def test_captions_say_only_what_the_labels_say(pictures: list[Picture]) -> None:
    singular = {word: shape for shape, pairs in SHAPES.items() for word, _ in pairs}
    plural = {word: shape for shape, pairs in SHAPES.items() for _, word in pairs}
    for picture in pictures:
        labels = picture.labels
        body = picture.caption.split(",")[0].split(" on a ")[0] if "on top of" not in picture.caption else picture.caption.split(",")[0]
        order = [0] if labels["relation"] is None else [labels["relation"]["subject"], labels["relation"]["object"]]
        parts = [body] if len(order) == 1 else re.split(RELATION, body)
        assert len(parts) == len(order)
        for part, number in zip(parts, order, strict=True):
            group = labels["objects"][number]
            words = part.split(" on a ")[0].split()
            assert words[0] in ("a", "an") if group["count"] == 1 else words[0] == NUMBERS[group["count"]]
            assert (words[0] == "an") == (group["count"] == 1 and words[1][0] in "aeiou")
            assert (singular if group["count"] == 1 else plural)[words[-1]] == group["shape"]
            assert [word for word in words if word in COLOURS] == [group["color"]]
            assert [word for word in words if word in SIZES] == ([] if group["size"] == "medium" else [group["size"]])
            assert [word for word in words if word in MATERIALS] in ([], [group["material"]])
        if "light," in picture.caption or picture.caption.endswith("light"):
            assert f"{labels['light']} light" in picture.caption
        for background in BACKGROUNDS:
            if f"{background} background" in picture.caption:
                assert labels["background"] == background


def test_relations_hold_in_the_boxes(pictures: list[Picture]) -> None:
    seen = set()
    for picture in pictures:
        relation = picture.labels["relation"]
        if relation is None:
            continue
        name = relation["relation"]
        seen.add(name)
        a, b = (picture.labels["objects"][relation[role]]["boxes"] for role in ("subject", "object"))
        if name in ("right of", "below", "in front of"):
            a, b = b, a
        if name in ("left of", "right of"):
            assert max(box[2] for box in a) < min(box[0] for box in b)
        elif name in ("above", "below"):
            assert a[0][1] < b[0][1]
            assert (a[0][1] + a[0][3]) / 2 + 8 < (b[0][1] + b[0][3]) / 2
            assert abs((a[0][0] + a[0][2]) - (b[0][0] + b[0][2])) / 2 < 5 + 0.25 * (b[0][2] - b[0][0])
        else:
            assert min(box[1] for box in a) < min(box[3] for box in b)
            assert max(box[3] for box in a) < max(box[3] for box in b)                  # their feet are farther up the floor
    assert seen == {"left of", "right of", "above", "below", "behind", "in front of"}


def test_little_is_hidden_and_sizes_never_meet(pictures: list[Picture]) -> None:
    widths: dict[str, list[float]] = {name: [] for name in SIZES}
    for picture in pictures:
        relation = picture.labels["relation"]
        for number, group in enumerate(picture.labels["objects"]):
            hideable = relation is not None and relation["relation"] not in ("left of", "right of") and len(picture.labels["objects"]) == 2
            assert min(group["visible"]) >= (0.6 if hideable else 0.99), (number, picture.caption)
            if group["shape"] == "sphere":
                widths[group["size"]] += [right - left for left, _, right, _ in group["boxes"]]
    assert max(widths["small"]) < min(widths["medium"])
    assert max(widths["medium"]) < min(widths["large"])


def plain_scene(*groups: layout.Group, relation: str = "", number: int = 0) -> layout.Scene:
    """A scene with these groups in soft light on white, placed by the same rules."""
    dice = layout.Dice(77, number)
    scene = layout.Scene(groups, relation, "soft", 1, "white", ())
    for attempt in range(2000):
        things = layout._place(scene, dice, shrink=min(1.0, attempt / 60))
        if layout._holds(scene, things):
            return layout.replace(scene, things=things)
    raise AssertionError("no placement")


@pytest.mark.parametrize("colour", CHROMATIC)
def test_counts_can_be_counted_in_the_pixels(colour: str) -> None:
    for count in NUMBERS:
        shape = list(SHAPES)[(count * 3 + len(colour)) % len(SHAPES)]
        scene = plain_scene(layout.Group(shape, colour, "medium" if count < 3 else "small", "matte", count), number=count)
        blobs, _ = ndimage.label(colour_mask(render(scene), colour))
        areas = np.bincount(blobs.ravel())[1:]
        assert (areas > 40).sum() == count, (shape, areas)


@pytest.mark.parametrize("relation", ["left of", "above"])
@pytest.mark.parametrize(("one", "other"), [("red", "blue"), ("green", "purple"), ("cyan", "orange")])
def test_relations_hold_in_the_pixels(relation: str, one: str, other: str) -> None:
    for number in range(3):
        shapes = [list(SHAPES)[(number * 4 + 3 * k) % len(SHAPES)] for k in range(2)]
        scene = plain_scene(layout.Group(shapes[0], one, "medium", "shiny", 1), layout.Group(shapes[1], other, "medium", "matte", 1),
                            relation=relation, number=number)
        pixels = render(scene)
        (row_a, column_a), (row_b, column_b) = (np.argwhere(colour_mask(pixels, name)).mean(0) for name in (one, other))
        if relation == "left of":
            assert column_a + 15 < column_b
        else:
            assert row_a + 15 < row_b
            assert abs(column_a - column_b) < 12


def test_every_word_is_drawn() -> None:
    scenes = [scene for number in range(600) if (scene := layout._draw(layout.Dice(3, number)))]
    assert len(scenes) == 600                                                          # all words together never exclude each other
    groups = [group for scene in scenes for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES) == set(FORMS)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.size for group in groups} == set(SIZES)
    assert {group.material for group in groups} == set(MATERIALS)
    assert {group.count for group in groups} == set(NUMBERS)
    assert {scene.light for scene in scenes} == set(LIGHTS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


@pytest.mark.parametrize("shape", FORMS)
def test_a_distance_is_never_larger_than_the_true_one(shape: str) -> None:
    """|d(p) - d(q)| <= |p - q|: so no step along a ray passes a surface."""
    points = np.random.default_rng(0).uniform(-1.6, 1.6, (3, 4000))
    steps = np.random.default_rng(1).normal(0, 0.02, (3, 4000))
    distance = FORMS[shape][0]
    change = np.abs(distance(*(points + steps)) - distance(*points))
    assert (change <= 1.12 * np.sqrt((steps ** 2).sum(0)) + 1e-6).all()
    assert (distance(*(2.5 * points / np.sqrt((points ** 2).sum(0)))) > 0).all()


def test_a_loader_draws_scenes_without_reading_them_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = Scenes.__getitem__
    monkeypatch.setattr(Scenes, "__getitem__", lambda self, index: drawn.append(index) or original(self, index))
    stored = write_scenes(Scenes(2, seed=1), tmp_path / "files", "folder")
    drawn.clear()
    with Loader(open_source(["scenes:1000000:4", stored]), 2, size=32, prefetch=0) as loader:
        assert drawn == []
        batch = loader.batch(3)
    assert sorted(drawn) == sorted(batch.index.tolist())
    assert batch.captions == [draw(4, number, pixels=False).caption for number in batch.index.tolist()]


def test_scene_paths_and_limits() -> None:
    source = open_scenes("scenes:5:3:64")
    assert (len(source), source.seed, source.size) == (5, 3, 64)
    assert source[4].caption == source.caption(4) == draw(3, 4, 64).caption
    assert source.key(4) == "scene-3-0000004"
    with pytest.raises(IndexError):
        source[5]
    for text in ("scenes:", "scenes:x", "scenes:5:", "scenes:5:1:2:3", "scenes:-1"):
        with pytest.raises(DataError):
            open_scenes(text)
    with pytest.raises(UsageError):
        open_scenes("scenes:5:0:9999")


def test_fewer_words_are_drawn_on_request() -> None:
    source = open_scenes("scenes:40:5:32,objects=1..2,shape=cube+ring,color=red+white,size=large,material=matte,light=soft,background=gray")
    counts = set()
    for number in range(40):
        picture = draw(5, number, 32, wanted=source.wanted)
        labels = json.loads(json.dumps(picture.labels))
        counts.add(sum(group["count"] for group in labels["objects"]))
        assert (labels["light"], labels["background"]) == ("soft", "gray")
        for group in labels["objects"]:
            assert group["shape"] in ("cube", "ring")
            assert group["color"] in ("red", "white")
            assert (group["size"], group["material"]) == ("large", "matte")
        assert source.caption(number) == source[number].caption == picture.caption
    assert counts == {1, 2}
    for low, high in ((1, 1), (3, 3), (2, 4), (5, 5)):
        for number in range(12):
            groups = draw(1, number, 32, pixels=False, wanted=Wanted(objects=(low, high))).labels["objects"]
            assert low <= sum(group["count"] for group in groups) <= high


def test_narrowed_scenes_are_other_scenes_with_names_of_their_own() -> None:
    plain, narrow = open_scenes("scenes:5"), open_scenes("scenes:5,light=hard+soft")
    assert plain.fingerprint != narrow.fingerprint
    assert not {plain.key(k) for k in range(5)} & {narrow.key(k) for k in range(5)}
    assert narrow.fingerprint == open_scenes("scenes:5,light=soft+hard").fingerprint
    assert "light=soft+hard" in narrow.describe()
    assert read(narrow.wanted.text) == narrow.wanted
    assert read("") == Wanted()
    assert Wanted().text == ""


@pytest.mark.parametrize(("options", "message"), [
    ("size=huge", "size=huge is not drawn"), ("colour=red", "options of scenes"), ("objects=0", "objects=0"), ("objects=3..2", "objects=3..2"),
    ("objects=1..9", "objects=1..9"), ("size", "options of scenes"), ("size=large,size=small", "given twice"), ("color=reed", "did you mean red"),
    ("color=white,background=white", "allow more words"), ("color=black,material=glass", "allow more words"), ("", "cannot read"),
    ("objects=4..5,size=large", "allow more words"),
])
def test_options_that_cannot_be_drawn_are_refused(options: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        open_scenes(f"scenes:9,{options}")


def test_scenes_of_every_word_keep_their_pixels_and_captions() -> None:
    """Options only narrow: without them a scene is what it was in the first release. Captions and the words behind them, by their digest."""
    said = "|".join(draw(3, number, 16, pixels=False).caption for number in range(40))
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "7d70f52d93ddaa36"
